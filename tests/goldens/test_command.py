"""The command rewrites what is named, and nothing by accident."""

import numpy as np
import pytest

from . import __main__ as command
from . import files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    return tmp_path


def test_without_names_nothing_is_written(folder):
    for arguments in ([], ["--rewrite"]):
        with pytest.raises(SystemExit):
            command.main(arguments)
    assert list(folder.iterdir()) == []


def test_an_unknown_name_is_refused_before_anything_is_written(folder):
    assert "no such golden: ['loss/hubr']" in command.main(["--rewrite", "loss/huber", "loss/hubr"])
    assert list(folder.iterdir()) == []


def test_a_rewrite_tells_which_arrays_have_changed_and_by_how_much(folder, capsys):
    assert command.main(["--rewrite", "loss/huber"]) is None
    assert capsys.readouterr().out.startswith("loss/huber: new, ")
    arrays = files.load("loss/huber")
    files.save("loss/huber", {**arrays, "forward/whole": arrays["forward/whole"] + np.float32(0.5)})
    command.main(["--rewrite", "loss/huber"])
    out = capsys.readouterr().out
    assert "1 of" in out and "forward/whole differs by 0.5 at most" in out
    command.main(["--rewrite", "loss/huber"])
    assert "nothing has changed" in capsys.readouterr().out
