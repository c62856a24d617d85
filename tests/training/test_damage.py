"""What a run goes on from, cut off or changed on disk: said in a line, and passed over."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from keras_tuner.errors import FatalError

from tests.doubles import mtms_rows, searches
from tests.doubles.kills import Kill
from tests.doubles.worlds import experiment, packed
from tfmtl import durable
from tfmtl.automtl.search import search
from tfmtl.declare.experiment import Tuning
from tfmtl.declare.meta import Meta
from tfmtl.errors import DataError
from tfmtl.mtms import part_training
from tfmtl.mtms import slot as slots
from tfmtl.mtms.store import Building
from tfmtl.run import train
from tfmtl.training.checkpoints import Run
from tfmtl.training.epochs import Trained, ready
from tfmtl.training.gradient_log import GradientLog
from tfmtl.transfer import runs
from tfmtl.tuning import tune

_, DATA = packed()
CONFIG = experiment(epochs=3, patience=9, checkpoint_every=4, monitor="loss")


def weights(trained):
    return [v.numpy() for v in trained.model.trainable_variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def last(folder: Path) -> Path:
    return max(folder.glob("at-*"))


def best_of(folder: Path) -> Path:
    epoch = json.loads((last(folder) / "state.json").read_text())["best_epoch"]
    return folder / f"best-{epoch:05d}.npz"


WAYS = {
    "cut weights": lambda folder: cut(next(last(folder).glob("weights.data-*"))),
    "changed weights": lambda folder: flip(next(last(folder).glob("weights.data-*"))),
    "cut index": lambda folder: cut(last(folder) / "weights.index"),
    "no index": lambda folder: (last(folder) / "weights.index").unlink(),
    "cut state": lambda folder: cut(last(folder) / "state.json"),
    "another number in the state": lambda folder: (last(folder) / "state.json").write_text(
        (last(folder) / "state.json").read_text().replace('"step": 4', '"step": 8')
    ),
    "cut seal": lambda folder: cut(last(folder) / durable.SEAL),
    "empty folder": lambda folder: empty(last(folder)),
    "a file in its place": lambda folder: (
        shutil.rmtree(last(folder)),
        (folder / "at-00001-000000004").write_text(""),
    ),
    "cut best weights": lambda folder: cut(best_of(folder)),
    "changed best weights": lambda folder: flip(best_of(folder)),
    "no best weights": lambda folder: best_of(folder).unlink(),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Checkpoints of a run that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, DATA, checkpoint_dir=str(folder), verbose=0, callbacks=(Kill(16),))
    assert [path.name for path in sorted(folder.glob("at-*"))] == [
        "at-00001-000000000",
        "at-00001-000000004",
    ]
    return folder


@pytest.fixture(scope="module")
def fresh():
    """A model that is ready to be trained, and its first weights."""
    model = ready(CONFIG, DATA, None)
    return model, [v.numpy() for v in model.variables]


def restored(fresh, folder) -> Run:
    model, first = fresh
    for variable, value in zip(model.variables, first, strict=True):
        variable.assign(value)
    run = Run(model, CONFIG, str(folder))
    run.restore()
    return run


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "absl"]


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_is_passed_over_in_a_line(killed, fresh, tmp_path, caplog, way):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    WAYS[way](folder)
    run = restored(fresh, folder)
    lines = [line for line in said(caplog) if "That checkpoint is passed over" in line]
    assert not any("\n" in line for line in lines)
    position = run.state["epoch"], run.state["step"]
    if "best" in way:
        # Both checkpoints refer to the same best weights.
        assert position == (0, 0) and run.best == [] and len(lines) == 2
        assert f"{best_of(killed).name} is" in lines[0] and "the run starts anew" in lines[1]
        assert same(fresh[1], [v.numpy() for v in run.variables])
    else:
        assert position == (1, 0) and len(lines) == 1
        assert last(killed).name in lines[0] and "goes on from the one before" in lines[0]
    # At the next checkpoint what was damaged is gone, so that nobody meets it again.
    run.save()
    for path in folder.glob("at-*"):
        durable.check_whole(str(path))
    caplog.clear()
    restored(fresh, folder)
    assert not any("passed over" in line for line in said(caplog))


def test_without_any_whole_checkpoint_the_run_starts_anew_and_ends_as_ever(
    killed, tmp_path, caplog
):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    for path in folder.glob("at-*"):
        cut(path / "weights.index")
    trained = train(CONFIG, DATA, checkpoint_dir=str(folder), verbose=0)
    assert "the run starts anew" in caplog.text
    assert same(weights(trained), weights(train(CONFIG, DATA, verbose=0)))


@pytest.mark.parametrize("stage", ["meta", "finetune"])
def test_a_damaged_checkpoint_of_either_stage_of_meta_training_is_passed_over(
    tmp_path, caplog, stage
):
    config = dataclasses.replace(
        experiment(epochs=1, patience=9, monitor="loss"),
        meta=Meta(tasks_per_step=2, task_rows=32, finetune_epochs=1),
    )
    folder = tmp_path / "run"
    whole = weights(train(config, DATA, checkpoint_dir=str(folder), verbose=0))
    cut(last(folder / stage) / "weights.index")
    again = weights(train(config, DATA, checkpoint_dir=str(folder), verbose=0))
    assert "That checkpoint is passed over" in caplog.text
    assert same(whole, again)


def test_a_damaged_checkpoint_of_a_search_is_passed_over(tmp_path, caplog, monkeypatch):
    config, data = searches.experiment(), searches.data()
    whole = search(config, data, verbose=0)
    save, saved = Run.save, []

    def killed_after_the_second(run):
        save(run)
        saved.append(run)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed_after_the_second)
        with pytest.raises(KeyboardInterrupt):
            search(config, data, directory=str(tmp_path), verbose=0)
    flip(next(last(tmp_path / "checkpoints").glob("weights.data-*")))
    found = search(config, data, directory=str(tmp_path), verbose=0)
    assert "the run goes on from the one before" in caplog.text
    assert found.architecture.line == whole.architecture.line
    assert repr(found.history[-1]["val_loss"]) == repr(whole.history[-1]["val_loss"])


def test_a_damaged_list_of_drawn_networks_is_said_and_drawn_anew(tmp_path, caplog):
    config = searches.experiment(searches.declared(algorithm="random", trials=1))
    data = searches.data()
    first = search(config, data, directory=str(tmp_path), verbose=0)
    cut(tmp_path / "trials.json")
    again = search(config, data, directory=str(tmp_path), verbose=0)
    assert "trials.json is damaged" in caplog.text and "The search starts anew" in caplog.text
    assert again.architecture.line == first.architecture.line


@pytest.mark.parametrize("what", ["oracle.json", "trial_*/trial.json", "trial_*/metrics.json"])
def test_a_damaged_file_of_keras_tuner_is_said_and_the_search_starts_anew(
    tmp_path, caplog, monkeypatch, what
):
    history = [{"val_mean_auc": 0.75}]
    monkeypatch.setattr(tune, "train", lambda *_, **__: Trained(None, history, 0))
    tuning = Tuning(space={"training.learning_rate": [1e-3]}, algorithm="grid", trials=1, epochs=1)
    config = dataclasses.replace(experiment(epochs=1), tuning=tuning)
    for _ in range(2):
        tuner = tune.ExperimentTuner(config, directory=str(tmp_path), verbose=0)
        tuner.search(data=DATA)
        (trial,) = tuner.oracle.trials.values()
        assert tuner.metrics_of(trial) == {"mean_auc": 0.75}
        cut(next((tmp_path / "trials").glob(what)))
    assert "The search starts anew" in caplog.text


@pytest.fixture
def rates(monkeypatch):
    """A search over three rates, of which those above 1 diverge; nothing is trained."""

    def trained(experiment, *_, **__):
        rate = experiment.training.learning_rate
        if rate > 1:
            raise FloatingPointError(f"the loss is nan: lower learning_rate ({rate:g})")
        if rate == 0.25:
            raise OSError(28, "No space left on device")
        return Trained(None, [{"val_mean_auc": 0.5 + rate / 10}], 0)

    monkeypatch.setattr(tune, "train", trained)

    def over(folder, *values):
        space = {"training.learning_rate": list(values)}
        tuning = Tuning(space=space, algorithm="grid", trials=len(values), epochs=1)
        config = dataclasses.replace(experiment(epochs=1), tuning=tuning)
        return tune.ExperimentTuner(config, directory=str(folder), verbose=0)

    return over


def test_candidates_that_diverge_are_left_out_however_many_they_are(rates, tmp_path, caplog):
    tuner = rates(tmp_path, 9.0, 8.0, 7.0, 6.0, 0.5, 0.1)
    tuner.search(data=DATA)
    assert caplog.text.count("diverged and is left out") == 4
    assert len(tuner.finished()) == 2
    assert tuner.get_best_hyperparameters()[0].values == {"training.learning_rate": 0.5}


def test_where_every_candidate_diverges_the_search_says_so_with_a_remedy(rates, tmp_path):
    with pytest.raises(FloatingPointError, match=r"all 2 candidates .* lower learning_rate \(8\)"):
        rates(tmp_path, 9.0, 8.0).search(data=DATA)


def test_a_full_disk_ends_a_search_at_once(rates, tmp_path):
    with pytest.raises(FatalError, match="No space left on device") as ended:
        rates(tmp_path, 0.25, 0.5).search(data=DATA)
    assert isinstance(ended.value.__cause__, OSError)


def test_a_gradient_log_that_was_cut_off_in_a_line_keeps_the_lines_before(tmp_path):
    path = tmp_path / "gradients.jsonl"
    rows = next(iter(DATA.train.batches(64)))

    def log():
        return GradientLog(rows, every=2, path=str(path))

    folder = str(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, DATA, checkpoint_dir=folder, verbose=0, callbacks=(log(), Kill(9)))
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2, 4, 6, 8]
    path.write_text("\n".join(lines)[:-20])
    again = log()
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, DATA, checkpoint_dir=folder, verbose=0, callbacks=(again, Kill(0)))
    assert [row["step"] for row in again.rows] == [0, 2, 4, 6]


def test_a_result_of_a_transfer_report_that_was_cut_off_is_trained_anew(
    tmp_path, caplog, monkeypatch
):
    trained = []

    def fake(*_):
        trained.append(True)
        return runs.Outcome(
            metrics={"a": 0.5}, predictions={"ctr": np.arange(9.0)}, log=[], gates=()
        )

    monkeypatch.setattr(runs, "_trained", fake)

    def outcome():
        return runs.outcome_of("all", CONFIG, DATA, DATA.validation, directory=str(tmp_path))

    outcome()
    for name in ("result.json", "predictions.npz"):
        caplog.clear()
        trained.clear()
        cut(next(tmp_path.glob(f"*/{name}")))
        again = outcome()
        assert f"{name} is damaged" in caplog.text and "'all' is trained anew" in caplog.text
        assert trained and again.metrics == {"a": 0.5}
        trained.clear()
        assert outcome().predictions["ctr"].sum() == 36 and not trained


# Slots


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """A finished slot, and the parts that are trained from then on."""
    parts = []

    def train_part(job, networks):
        parts.append((job.part.kind, job.part.scene))
        with Building(job.part.folder(job.folder), job.about) as folder:
            Path(folder, "network.npz").write_text(f"the network of {job.part}")

    monkeypatch.setattr(part_training, "train_part", train_part)
    monkeypatch.setattr(slots, "load_slot", lambda folder: None)
    train_mtms(tmp_path / "1", 1)
    assert len(parts) == 4
    parts.clear()
    return tmp_path / "1", parts


def train_mtms(folder, number, previous=None):
    config = mtms_rows.experiment(targets=("cvr",))
    rows = mtms_rows.as_rows(mtms_rows.packed())
    slots.train_slot(config, rows, slot=number, folder=str(folder), previous=previous, verbose=0)


@pytest.mark.parametrize("name", ["network.npz", "about.json", durable.SEAL])
def test_a_damaged_part_of_a_slot_is_said_and_that_part_alone_is_trained_anew(slot, caplog, name):
    folder, parts = slot
    damaged = folder / "scenes/feed/fine_tune-cvr" / name
    cut(damaged)
    train_mtms(folder, 1)
    assert parts == [("fine_tune", "feed")]
    assert f"{damaged} is damaged" in caplog.text and "That part is trained anew" in caplog.text
    parts.clear()
    train_mtms(folder, 1)
    assert parts == []


def test_a_damaged_part_of_the_slot_before_is_refused_with_what_to_do(slot, tmp_path):
    folder, _ = slot
    flip(folder / "scenes/feed/fine_tune-cvr/network.npz")
    with pytest.raises(DataError, match="fine_tune-cvr/network.npz is damaged.*slot before.*again"):
        train_mtms(tmp_path / "2", 2, previous=str(folder))


def test_a_slot_whose_own_file_was_cut_off_is_finished_anew_from_its_parts(slot, caplog):
    folder, parts = slot
    cut(folder / "slot.json")
    train_mtms(folder, 1)
    assert "The slot is finished anew" in caplog.text and parts == []
    assert slots.read_slot(str(folder))["slot"] == 1


def test_a_finished_slot_that_cannot_be_read_is_refused_by_its_file(slot):
    folder, _ = slot
    cut(folder / "slot.json")
    with pytest.raises(DataError, match="slot.json is damaged"):
        slots.read_slot(str(folder))
