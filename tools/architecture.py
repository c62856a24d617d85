"""The rooms of the code and the imports between them, read from the sources.

    python tools/architecture.py           write the picture and the table into docs/architecture.md
    python tools/architecture.py --check   fail where the page is not what the code says

A room is a folder of `tfmtl/`, or one of its single files; `components` and `pipeline` are one room
each. Nothing of the project is imported or run.
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("tfmtl", "components", "pipeline")
BEGIN, END = "<!-- drawn by tools/architecture.py -->", "<!-- end of what is drawn -->"


def modules(root=ROOT, packages=PACKAGES):
    """Every module of the packages, by dotted name, with its file."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


def imports(path, known):
    """Modules of the project that a file imports, each as (name, line, inside a function)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
    result = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = node.module + "." + alias.name
                names.append(whole if whole in known else node.module)
        result += [(name, node.lineno, id(node) in inside) for name in names if name in known]
    return result


def graph(root=ROOT, packages=PACKAGES, late=True):
    """Which modules each module imports; `late` says whether imports inside functions count."""
    known = modules(root, packages)
    return {
        name: {
            other
            for other, _, inside in imports(path, known)
            if other != name and (late or not inside)
        }
        for name, path in known.items()
    }


def room(module):
    """The room of a module: `mtms` of `tfmtl.mtms.slot`, `components` of `components.evaluator`."""
    parts = module.split(".")
    if parts[0] != "tfmtl":
        return parts[0]
    return parts[1] if len(parts) > 1 else "tfmtl"


def arrows(edges):
    """Which rooms each room imports."""
    between = defaultdict(set)
    for module, others in edges.items():
        between[room(module)] |= {room(other) for other in others} - {room(module)}
    return dict(between)


def circles(edges):
    """Sets of nodes that reach each other, each sorted (Tarjan, 1972)."""
    index, low, stack, on_stack, result = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on_stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
                on_stack.discard(group[-1])
            if len(group) > 1:
                result.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(result)


def floors(between):
    """The floor of each room: 1 imports no other room, and each stands above all it imports."""
    known = {}

    def floor(node):
        if node not in known:
            known[node] = 1 + max((floor(other) for other in between.get(node, ())), default=0)
        return known[node]

    for node in set(between) | {other for others in between.values() for other in others}:
        floor(node)
    return known


def direct(between):
    """The arrows without those that a longer way stands for, so that a picture can be read."""
    reach = {}

    def below(node):
        if node not in reach:
            reach[node] = set()
            for other in between.get(node, ()):
                reach[node] |= {other} | below(other)
        return reach[node]

    return {
        node: {o for o in others if not any(o in below(p) for p in others if p != o)}
        for node, others in between.items()
    }


def purpose(name):
    """The first sentence of a room's docstring."""
    base = ROOT / name if name in PACKAGES else ROOT / "tfmtl" / name
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(re.split(r"(?<=\.)\s", text.replace("\n", " "), maxsplit=1)[0].split())


def drawn():
    """The picture (Mermaid, which GitHub draws) and the table of the rooms."""
    between = {n: others - {"tfmtl"} for n, others in arrows(graph()).items() if n != "tfmtl"}
    between.pop("_version", None)
    ground = {"errors", "plain", "text", "arguments", "registry", "_version"}
    upper = {n: others - ground for n, others in between.items() if n not in ground}
    level = floors(upper)
    lines = ["```mermaid", "flowchart BT"]
    for floor in sorted(set(level.values())):
        lines.append(f'  subgraph floor{floor} [" "]')
        lines += [f"    {name}" for name in sorted(n for n, f in level.items() if f == floor)]
        lines.append("  end")
    for name, others in sorted(direct(upper).items()):
        lines += [f"  {other} --> {name}" for other in sorted(others)]
    lines += ["```", ""]
    count = sum(len(others) for others in between.values())
    lines += [
        f"{len(between)} rooms, {count} imports between rooms, no circle. An arrow leads from a "
        "room to one that imports it. Left out are what a longer way already shows, and the "
        "ground: " + ", ".join(f"`{name}`" for name in sorted(ground - {"_version"})) + ".",
        "",
        "| room | what it is for | imports |",
        "|---|---|---|",
    ]
    whole = floors(between)
    for name in sorted(between, key=lambda n: (whole[n], n)):
        used = ", ".join(f"`{o}`" for o in sorted(between[name] - ground)) or "the ground alone"
        lines.append(f"| `{name}` | {purpose(name)} | {used} |")
    return "\n".join(lines)


def main(argv=None):
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args(argv)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n\n{drawn()}\n\n{END}{after}"
    if new == text:
        print(f"{PAGE.relative_to(ROOT)} is as the code is")
        return 0
    if options.check:
        print(f"{PAGE.relative_to(ROOT)} is older than the code: run `make architecture`")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
