"""The import direction: tfmtl <- components <- pipeline."""

import ast
from pathlib import Path

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
