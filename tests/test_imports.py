"""The import direction: tfmtl <- components <- pipeline, and no circle between rooms or files."""

import ast
import subprocess
import sys
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).parents[1]
TFX = {
    "apache_beam",
    "ml_metadata",
    "tensorflow_data_validation",
    "tensorflow_model_analysis",
    "tensorflow_transform",
    "tfx",
    "tfx_bsl",
}
OUTSIDE = {"benchmarks", "tests", "tools"}
FORBIDDEN = {
    "tfmtl": {"components", "pipeline", *TFX, *OUTSIDE},
    "components": {"pipeline", *OUTSIDE},
    "pipeline": OUTSIDE,
}


def wrong_imports(root: Path, package: str) -> list[str]:
    found = []
    for path in sorted((root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ())]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.level == 0 else []
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                wrong = {name.split(".")[0] for name in names} & FORBIDDEN[package]
                found += [f"{path.relative_to(root)}:{node.lineno}: {name}" for name in wrong]
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_layer_imports_only_the_layers_below_it(package):
    assert wrong_imports(ROOT, package) == []


@pytest.mark.parametrize(
    ("package", "line", "name"),
    [
        ("tfmtl", "import tfx.v1 as tfx", "tfx"),
        ("tfmtl", "def late():\n    from components.example_gen import read", "components"),
        ("components", "import os, pipeline.local_runner", "pipeline"),
    ],
)
def test_a_planted_violation_is_found_with_its_file_and_line(tmp_path, package, line, name):
    (tmp_path / package).mkdir()
    (tmp_path / package / "planted.py").write_text(f"from . import fine\n{line}\n")
    (found,) = wrong_imports(tmp_path, package)
    assert found.startswith(f"{package}/planted.py:") and found.endswith(f": {name}")


def test_a_public_name_is_the_same_on_every_access():
    import types

    import tfmtl

    for _ in range(2):
        for name in tfmtl.__all__:
            assert not isinstance(getattr(tfmtl, name), types.ModuleType), name


def test_no_room_imports_another_in_a_circle():
    assert architecture.circles(architecture.arrows(architecture.graph())) == []


def test_no_file_imports_another_in_a_circle_not_even_inside_a_function():
    assert architecture.circles(architecture.graph()) == []


def test_a_planted_circle_is_found_also_where_a_function_hides_it(tmp_path):
    package = tmp_path / "tfmtl"
    for name, text in {
        "a/one": "from tfmtl.b import two\n",
        "b/two": "def late():\n    from tfmtl.a.one import x\n",
        "c/three": "import tfmtl.a.one\n",
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    edges = architecture.graph(tmp_path, ("tfmtl",))
    assert architecture.circles(edges) == [["tfmtl.a.one", "tfmtl.b.two"]]
    assert architecture.circles(architecture.arrows(edges)) == [["a", "b"]]
    assert architecture.circles(architecture.graph(tmp_path, ("tfmtl",), late=False)) == []


def test_nothing_in_the_library_imports_the_simulator():
    between = architecture.arrows(architecture.graph())
    users = {name for name, others in between.items() if "simulator" in others}
    assert users <= {"components", "pipeline"}


LIGHT = """
import importlib, pkgutil, sys
import tfmtl, tfmtl.declare
for module in pkgutil.iter_modules(tfmtl.declare.__path__, "tfmtl.declare."):
    importlib.import_module(module.name)
problem = tfmtl.ProblemSpec(
    features=(tfmtl.categorical("ad"), tfmtl.numerical("price")),
    tasks=(tfmtl.binary("ctr", label="click"), tfmtl.regression("quality", label="quality")),
)
assert tfmtl.ProblemSpec.from_json(problem.to_json()) == problem
print(sorted({"tensorflow", "tf_keras", "pyarrow", "pandas"} & set(sys.modules)))
"""


def test_declaring_a_problem_never_loads_tensorflow():
    run = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


def test_the_architecture_page_is_drawn_from_the_code():
    assert architecture.main(["--check"]) == 0, "run `make architecture` and commit the page"


def test_every_room_says_what_it_is_for_and_what_belongs_elsewhere():
    for path in sorted((ROOT / "tfmtl").glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(text.split()) >= 25, f"{path.parent.name}/__init__.py: two or three sentences"
