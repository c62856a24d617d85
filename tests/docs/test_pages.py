"""Pages of documentation: their code runs, and what their commands name is there."""

import ast
import re
import traceback

import pytest

from pipeline.config import check, load
from tests.doubles.pages import PAGES, ROOT, PageError, blocks_of, followed, run_block
from tests.doubles.shell import commands, fault, inline_commands

each_page = pytest.mark.parametrize("page", PAGES)
# Found by text, so that a page that breaks a rule fails its own tests and no others.
with_slow_blocks = pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- tests: slow" in (ROOT / page).read_text()]
)


@each_page
def test_a_pages_blocks_run_one_after_the_other(page, tmp_path):
    if any(not block.skipped for block in blocks_of(page)):
        followed(page, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@with_slow_blocks
def test_a_pages_blocks_run_with_the_pipelines_among_them(page, tmp_path):
    followed(page, tmp_path, whole=True)


@each_page
def test_what_a_pages_commands_name_is_there(page):
    blocks = blocks_of(page)
    files = {block.file for block in blocks if block.file}
    faults = []
    for block in blocks:
        if block.language == "sh":
            found = [fault(words, files) for words in commands(block.text)]
            faults += [f"{block.place}: {what}" for what in found if what]
    for words in inline_commands((ROOT / page).read_text()):
        # A command without arguments is named there, not given.
        what = fault(words if len(words) > 3 else [*words, "--help"], files)
        faults += [f"{page}: `{' '.join(words)}`: {what}"] if what else []
    assert faults == []


@each_page
def test_a_pages_python_parses_also_where_it_does_not_run(page):
    for block in blocks_of(page):
        if block.language == "python":
            ast.parse(block.text, block.place)
            ast.parse(block.code(), block.place)


@each_page
def test_a_configuration_on_a_page_is_one_that_the_pipeline_takes(page, tmp_path):
    for block in blocks_of(page):
        if block.file and "\nEXPERIMENT = " in block.text:
            (tmp_path / block.file).write_text(block.text)
            check(load(str(tmp_path / block.file)).experiment)


@each_page
def test_a_pages_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(((?!https?:|#|mailto:)[^)#\s]+)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []


PAGE = """
<!-- tests: epochs=9 -> epochs=1 -->
```python
epochs=9
```

<!-- tests: before
given = 3
-->
<!-- tests: slow, it trains -->
```python
# mine.py
made = given
```

<!-- tests: not run, it needs Docker -->
```sh
docker run
```
"""


def test_comments_above_a_block_say_how_it_is_run():
    small, slow, skipped = blocks_of("page.md", PAGE)
    assert (small.place, small.text, small.code()) == ("page.md:4", "epochs=9\n", "epochs=1\n")
    assert (slow.slow, slow.before, slow.file) == (True, "given = 3\n", "mine.py")
    assert (skipped.skipped, skipped.slow, skipped.language) == ("it needs Docker", False, "sh")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nls\n```\n", "page.md:1: a block without a language"),
        ("```python\nx = 1\n", "page.md:1: a block without an end"),
        ("<!-- tests: not run -->\n```sh\nls\n```\n", "page.md:3: say why"),
        ("<!-- tests: slow, -->\n```sh\nls\n```\n", "page.md:3: say why"),
        ("<!-- tests: quick -->\n```sh\nls\n```\n", "page.md:3: a comment for the tests says"),
        ("<!-- tests: slow, x -->\nprose\n\n```sh\nls\n```\n", "right above a block"),
        ("<!-- tests: slow, x -->\nprose\n", "right above a block"),
    ],
)
def test_a_page_that_breaks_the_rules_is_refused_with_its_line(text, message):
    with pytest.raises(PageError, match=message):
        blocks_of("page.md", text)


def test_a_text_that_is_to_be_replaced_must_be_there():
    (block,) = blocks_of("page.md", "<!-- tests: 60000 -> 9 -->\n```sh\nls\n```\n")
    with pytest.raises(PageError, match="'60000', which is not there"):
        block.code()


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("python -m tfmtl.simulator --out ads", None),
        ("python -m tfmtl.simulator --out ads --dayly", "unrecognized arguments: --dayly"),
        ("python -m tfmtl.simulator --kind shops --out ads", "invalid choice: 'shops'"),
        ("python -m tfmtl.simulators --out ads", "no module tfmtl.simulators"),
        ("python -m tfmtl.errors", "tfmtl.errors has no command line"),
        ("python mine.py", None),
        ("python yours.py", "no file yours.py"),
        ("make demo CONFIG=mtms", None),
        ("make demos", "no target demos"),
        ("make demo CONFIGS=mtms", "no variable CONFIGS"),
        ("tfx pipeline create --pipeline_path pipeline/none.py", "no file pipeline/none.py"),
        ("tfmtl train", "tfmtl SUBCOMMAND --help"),
        ("tfmtls serve", "'tfmtls' is no command"),
    ],
)
def test_a_command_that_does_not_fit_the_project_is_found(command, what):
    (words,) = commands(f"{command}  # as the page has it")
    found = fault(words, {"mine.py"})
    assert found is None if what is None else what in found


def test_a_command_is_found_in_prose_over_the_end_of_a_line():
    text = "as `python -m\nbenchmarks.quality --quick` says\n```sh\nmake `x`\n```\n`make demo`\n"
    assert inline_commands(text) == [
        ["python", "-m", "benchmarks.quality", "--quick"],
        ["make", "demo"],
    ]


def test_a_failing_block_is_told_with_its_page_and_line(tmp_path, monkeypatch):
    (block,) = blocks_of("page.md", "# Page\n\n```python\nx = 1\nraise KeyError\n```\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError) as raised:
        run_block(block, {})
    last = traceback.extract_tb(raised.tb)[-1]
    assert (last.filename, last.lineno) == ("page.md", 5)
