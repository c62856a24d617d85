"""The lines that tests must notice when they change."""

from pathlib import Path

import mutants
import pytest


def test_every_mutant_changes_a_line_that_stands_there_once():
    for mutant in mutants.MUTANTS:
        source = (mutants.ROOT / mutant.file).read_text(encoding="utf-8")
        assert source.count(mutant.text) == 1, mutant.name
        changed = source.replace(mutant.text, mutant.replacement)
        assert changed != source
        compile(changed, mutant.file, "exec")
        assert (mutants.ROOT / mutant.tests.split("::")[0]).exists()
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS)


@pytest.fixture
def project(tmp_path):
    """A project with a line, a test that guards it and one that does not."""
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n")
    for name, value in (("guards", 3), ("does_not", 0)):
        text = f"from double import double\ndef test(): assert double({value}) == {2 * value}\n"
        (tmp_path / f"test_{name}.py").write_text(text)
    return tmp_path


def test_a_mutant_is_caught_by_a_test_that_fails_and_the_line_put_back(project):
    def mutant(tests, text="2 * x"):
        return mutants.Mutant("double", "double.py", text, "5 * x", tests)

    assert mutants.is_caught(mutant("test_guards.py"), project)
    assert not mutants.is_caught(mutant("test_does_not.py"), project)
    assert "2 * x" in Path(project, "double.py").read_text()
    with pytest.raises(RuntimeError, match="did not run"):
        mutants.is_caught(mutant("test_nowhere.py"), project)
    with pytest.raises(ValueError, match="stands 0 times"):
        mutants.is_caught(mutant("test_guards.py", "3 * x"), project)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_enough_mutants_are_caught(capfd):
    status = mutants.main()
    assert status == 0, capfd.readouterr().out
