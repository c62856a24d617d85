"""A page of documentation, its blocks taken apart and run as a reader would run them.

Blocks run in the order of the page, in one folder: Python in one namespace, `sh` by bash. A Python
block whose first line is `# name.py` is also written to that file. A comment right above a block
changes that; GitHub does not show it:

    <!-- tests: 60000 -> 9000 -->                       other text in its place, to be quick
    <!-- tests: slow, the pipeline takes a minute -->   in the slow lane alone
    <!-- tests: not run, it needs Docker -->            nowhere; the reason is a must
    <!-- tests: before
    experiment = ...
    -->                                                 Python that the page takes for granted

Several may stand above one another. `python -m tests.doubles.pages PAGE [--whole]` runs a page in
the current folder.
"""

import argparse
import dataclasses
import importlib
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Blocks of other languages, such as `text`, are for reading; each block names its own.
RUN = ("python", "sh")
FENCE = re.compile(r"^ *```(\w*) *$")
COMMENT = re.compile(r"<!-- tests: (.*?)-->", re.S)
FILE = re.compile(r"# (\w+\.py)\n")
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    # What was true of a version stays in the CHANGELOG.
    if path.name != "CHANGELOG.md"
)


class PageError(Exception):
    """A block that the rules above do not allow, with its page and line."""


@dataclasses.dataclass
class Block:
    """One fenced block.

    Attributes:
        page: The page's path from the project's root.
        line: The number of its first line of code.
        language: What the fence says.
        text: The code, as the reader has it.
        before: Python that the page takes for granted.
        smaller: Pairs of a text and what stands for it in the tests.
        slow: Whether it runs in the slow lane alone.
        skipped: Why it runs nowhere; empty where it runs.
    """

    page: str
    line: int
    language: str
    text: str
    before: str = ""
    smaller: tuple[tuple[str, str], ...] = ()
    slow: bool = False
    skipped: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block's first line names."""
        named = FILE.match(self.text) if self.language == "python" else None
        return named.group(1) if named else None

    def code(self) -> str:
        """The code as the tests run it."""
        code = self.text
        for text, instead in self.smaller:
            if text not in code:
                raise PageError(f"{self.place}: the comment replaces {text!r}, which is not there")
            code = code.replace(text, instead)
        return code

    def told(self, comment: str) -> None:
        """Takes in what a comment above the block says."""
        word, _, rest = comment.partition("\n")
        kind, _, reason = (part.strip() for part in word.partition(","))
        if word.strip() == "before":
            self.before += rest
        elif kind in ("slow", "not run"):
            if not reason:
                raise PageError(f"{self.place}: say why, as in `{kind}, it needs a cluster`")
            self.slow, self.skipped = kind == "slow", reason if kind == "not run" else ""
        elif "->" in comment:
            text, instead = comment.split("->")
            self.smaller += ((text.strip(), instead.strip()),)
        else:
            raise PageError(f"{self.place}: a comment for the tests says {comment.strip()!r}")


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """Returns the blocks of a page.

    Args:
        page: The page's path from the project's root.
        text: Its text; None reads the file.

    Raises:
        PageError: A fence without an end, of another language, or a comment that says nothing.
    """
    lines = ((ROOT / page).read_text() if text is None else text).split("\n")
    blocks: list[Block] = []
    since, start, language = 0, None, ""
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence and start is None:
            start, language = number, fence.group(1)
            if not language:
                raise PageError(f"{page}:{number + 1}: a block without a language: {RUN} or text")
        elif fence and start is not None:
            indent = lines[start].index("`")
            code = "".join(inner[indent:] + "\n" for inner in lines[start + 1 : number])
            block = Block(page, start + 2, language, code)
            above = "\n".join(lines[since:start])
            for comment in COMMENT.findall(above):
                block.told(comment)
            if COMMENT.search(above) and not above.rstrip().endswith("-->"):
                raise PageError(
                    f"{block.place}: a comment for the tests stands right above a block"
                )
            blocks.append(block)
            since, start = number + 1, None
    if start is not None:
        raise PageError(f"{page}:{start + 1}: a block without an end")
    if COMMENT.search("\n".join(lines[since:])):
        raise PageError(
            f"{page}: its last comment for the tests does not stand right above a block"
        )
    return blocks


def environment() -> dict[str, str]:
    """The environment of a reader who has activated the project's, and stands in its folder."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "Agg",
        "LOCAL_HOME": os.path.abspath("tfx"),
    }


def run_block(block: Block, names: dict[str, object]) -> None:
    """Runs one block in the current folder, Python in `names`."""
    code = block.code()
    exec(block.before, names)
    if block.file:
        Path(block.file).write_text(code)
    if block.language == "python":
        # Blank lines first: a traceback then names the page's own line.
        exec(compile("\n" * (block.line - 1) + code, block.page, "exec"), names)
    else:
        subprocess.run(["bash", "-euc", code], env=environment(), check=True)


def run_page(page: str, whole: bool) -> None:
    """Runs a page's blocks, then its claims, `tests/docs/claims/<page>.py` where there are any.

    Args:
        page: The page's path from the project's root.
        whole: Whether slow blocks run too.
    """
    # As for a reader who runs it: what a block defines is found in the module that runs.
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    names = vars(module)
    for block in blocks_of(page):
        if block.language in RUN and not block.skipped and (whole or not block.slow):
            started = time.perf_counter()
            run_block(block, names)
            print(f"{block.place}: {time.perf_counter() - started:.1f} s", flush=True)
    claims = ROOT / f"tests/docs/claims/{Path(page).stem.lower()}.py"
    if claims.exists():
        importlib.import_module(f"tests.docs.claims.{claims.stem}").claims(names, whole)
        print("claims hold", flush=True)


def followed(page: str, folder: Path, whole: bool = False) -> str:
    """Runs a page in a process and a folder of its own; returns what it printed."""
    # The pages are followed in the project's folder; here what they write stays out of it.
    for name in ("pipeline", "tfmtl", "components", "benchmarks", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "tests.doubles.pages", page]
    done = subprocess.run(
        [*command, *(["--whole"] if whole else [])],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("page")
    arguments.add_argument("--whole", action="store_true")
    options = arguments.parse_args()
    run_page(options.page, options.whole)
