"""Daily operation: which days a run trains on, what it starts from, and what it passes over."""

import json
from pathlib import Path

import pytest
from ml_metadata import proto as mlmd_proto
from ml_metadata.metadata_store import metadata_store
from tfx.types import standard_artifacts

from pipeline import local_runner, slots
from pipeline.config import check_slots, load
from pipeline.daily import Day, Place, judged, served_tasks
from pipeline.days import Log, known_days
from pipeline.window import LastBlessedSlot, Spans, slot_of
from tests.doubles.daily_shop import CONFIG, shop, write_day
from tfmtl.data.table import read_table
from tfmtl.declare.experiment import Tuning
from tfmtl.declare.split import Sampling, by_hash, whole
from tfmtl.errors import DataError, SpecError

# --- Days and their windows -------------------------------------------------------------------


def test_a_log_finds_its_days_by_number_whatever_their_digits(tmp_path):
    for day in (9, 10, 11):
        write_day(tmp_path, day, rows=1)
    (tmp_path / ".day-12.building").mkdir()
    (tmp_path / "day-late").mkdir()
    (tmp_path / "day-late" / "rows.csv").write_text("x")
    log = Log(str(tmp_path))
    assert log.spans == (9, 10, 11)
    assert [log.name(s) for s in log.spans] == ["day-9", "day-10", "day-11"]


def test_a_log_of_dates_counts_them_from_1970(tmp_path):
    for name in ("2024-02-28", "2024-02-29", "2024-03-01"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("x")
    log = Log(str(tmp_path), "{YYYY}-{MM}-{DD}/*")
    assert log.spans == (19781, 19782, 19783)
    assert log.name(19782) == "2024-02-29"
    known_days(log, str(tmp_path / "known.json"))


def test_a_slot_that_starts_from_nothing_is_trained_on_all_the_history():
    experiment = load("mtms").experiment.replace_path("mtms.history", 5)
    experiment = experiment.replace_path("mtms.window", 2)
    assert slots.with_history(Day(span=9, first=7), experiment, 0) == Day(span=9, first=4)
    # No further back than the log.
    assert slots.with_history(Day(span=9, first=7), experiment, 6) == Day(span=9, first=6)


def test_a_missing_day_is_named(tmp_path):
    shop(tmp_path)
    (tmp_path / "log/day-3/rows.csv").unlink()
    with pytest.raises(DataError, match="day-3 missing between day-0 and day-4"):
        known_days(Log(str(tmp_path / "log")), str(tmp_path / "known.json"))


def test_days_that_were_used_still_count_when_they_are_deleted(tmp_path):
    shop(tmp_path)
    kept = str(tmp_path / "state/known.json")
    before = known_days(Log(str(tmp_path / "log")), kept)
    (tmp_path / "log/day-0/rows.csv").unlink()
    assert known_days(Log(str(tmp_path / "log")), kept) == before


def test_a_day_that_must_run_again_and_is_deleted_is_named(tmp_path):
    shop(tmp_path)
    config = load(str(tmp_path / "shop.py"))
    place = Place(
        pipeline_root=str(tmp_path / "artifacts"),
        serving_dir=str(tmp_path / "serving"),
        metadata_path=str(tmp_path / "metadata.sqlite"),
    )
    known_days(Log(str(tmp_path / "log")), str(tmp_path / "artifacts/days/known.json"))
    (tmp_path / "log/day-1/rows.csv").unlink()
    with pytest.raises(DataError, match="day-2 must run again, .* but day-1 is no longer in"):
        slots.run_days(config, config.experiment, str(tmp_path / "log"), place)


def plan(experiment, tmp_path, days=None, count=8):
    known = dict.fromkeys(range(count), "")
    for day in range(count):
        write_day(tmp_path / "log", day, rows=1)
    return slots.planned(experiment, Log(str(tmp_path / "log")), known, days)


def test_the_first_slot_has_the_history_and_later_ones_the_window(tmp_path):
    (tmp_path / "shop.py").write_text(CONFIG)
    experiment = load(str(tmp_path / "shop.py")).experiment
    longer = experiment.replace_path("mtms.history", 4)
    found = plan(longer, tmp_path)
    assert found == [
        Day(span=4, first=0),
        Day(span=5, first=3),
        Day(span=6, first=4),
        Day(span=7, first=5),
    ]
    # The new day is never in its own window.
    assert [day.slot for day in found] == [3, 4, 5, 6]


def test_more_days_than_there_are_is_an_error_that_counts_them(tmp_path):
    (tmp_path / "shop.py").write_text(CONFIG)
    experiment = load(str(tmp_path / "shop.py")).experiment
    with pytest.raises(DataError, match="so 6 can be new, not 7"):
        plan(experiment, tmp_path, days=7)


def test_a_days_key_depends_on_the_days_up_to_it_and_on_the_settings(tmp_path):
    (tmp_path / "shop.py").write_text(CONFIG)
    experiment = load(str(tmp_path / "shop.py")).experiment
    days = plan(experiment, tmp_path, count=5)
    known = dict.fromkeys(range(5), "as it was")
    keys = slots.keys_of(experiment, None, None, known, days)
    later = slots.keys_of(experiment, None, None, {**known, 3: "edited"}, days)
    assert [keys[s] == later[s] for s in (2, 3, 4)] == [True, False, False]
    other = experiment.replace_path("training.seed", 7)
    assert not set(keys.values()) & set(slots.keys_of(other, None, None, known, days).values())


# --- Whole days --------------------------------------------------------------------------------


def test_a_whole_split_is_one_table_with_every_row(tmp_path):
    shop(tmp_path, days=1)
    problem = load(str(tmp_path / "shop.py")).experiment.problem
    tables = read_table(str(tmp_path / "log/day-0"), problem, split=whole())
    assert {name: table.num_rows for name, table in tables.items()} == {"all": 400}


def test_slots_want_whole_days_and_whole_days_want_slots(tmp_path):
    (tmp_path / "shop.py").write_text(CONFIG)
    experiment = load(str(tmp_path / "shop.py")).experiment
    check_slots(experiment)
    with pytest.raises(SpecError, match=r"split is by_hash\('user'\); split=whole\(\) would"):
        check_slots(experiment.replace_path("split", by_hash("user")))
    with pytest.raises(SpecError, match=r"Only an experiment with mtms"):
        check_slots(experiment.replace_path("mtms", None))
    with pytest.raises(SpecError, match="tuning is declared"):
        check_slots(experiment.replace_path("tuning", Tuning(space={"training.seed": [1, 2]})))
    with pytest.raises(SpecError, match="--set sampling=None"):
        check_slots(
            experiment.replace_path("sampling", Sampling(column="scene", rates={"feed": 0.5}))
        )


def test_the_evaluator_asks_for_the_tasks_that_are_served(tmp_path):
    (tmp_path / "shop.py").write_text(CONFIG)
    experiment = load(str(tmp_path / "shop.py")).experiment
    assert served_tasks(experiment) == ("ctr", "cvr", "ctcvr")
    alone = experiment.replace_path("mtms.targets", ("cvr",))
    assert served_tasks(alone) == ("cvr",)
    assert [task.name for task in judged(alone).problem.served] == ["cvr"]


# --- What a run takes from earlier ones --------------------------------------------------------


class Metadata:
    """ML Metadata in memory, with executions that put artifacts out."""

    def __init__(self):
        config = mlmd_proto.ConnectionConfig()
        config.fake_database.SetInParent()
        self.store = metadata_store.MetadataStore(config)
        kind = mlmd_proto.ExecutionType(name="Run")
        self.kind = self.store.put_execution_type(kind)

    def register(self, artifact):
        kind = artifact.artifact_type
        artifact.set_mlmd_artifact_type(kind)
        artifact.mlmd_artifact.type_id = self.store.put_artifact_type(kind)
        (artifact.id,) = self.store.put_artifacts([artifact.mlmd_artifact])
        self.put_out(artifact)
        return artifact

    def put_out(self, *artifacts):
        (run,) = self.store.put_executions([mlmd_proto.Execution(type_id=self.kind)])
        for artifact in artifacts:
            event = mlmd_proto.Event(
                artifact_id=artifact.id, execution_id=run, type=mlmd_proto.Event.OUTPUT
            )
            self.store.put_events([event])


def test_a_day_that_was_read_twice_gives_what_was_read_or_used_last():
    metadata = Metadata()

    def read(span):
        examples = standard_artifacts.Examples()
        examples.span = span
        return metadata.register(examples)

    old, other, again, later = read(1), read(2), read(1), read(3)
    everything = [later, again, other, old]
    found = Spans(1, 2).resolve_artifacts(metadata.store, {"examples": everything})
    assert [a.id for a in found["examples"]] == [again.id, other.id]
    # Settings were changed back: the first reading came from the cache.
    metadata.put_out(old)
    found = Spans(1, 2).resolve_artifacts(metadata.store, {"examples": everything})
    assert [a.id for a in found["examples"]] == [old.id, other.id]
    with pytest.raises(DataError, match="span 0 of 0 to 1 was never read"):
        Spans(0, 1).resolve_artifacts(metadata.store, {"examples": everything})


class Slots(Metadata):
    """Models of slots with blessings."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.models, self.blessings = folder, [], []

    def model(self, slot):
        made = standard_artifacts.Model()
        made.uri = str(self.folder / str(len(self.models)))
        if slot is not None:
            (Path(made.uri) / "slot").mkdir(parents=True)
            (Path(made.uri) / "slot/slot.json").write_text(json.dumps({"slot": slot}))
        self.models.append(self.register(made))
        return made

    def bless(self, model, yes, evaluator="RankingEvaluator"):
        made = standard_artifacts.ModelBlessing()
        made.set_int_custom_property("current_model_id", model.id)
        made.set_int_custom_property("blessed", int(yes))
        made.set_string_custom_property("component_id", evaluator)
        self.blessings.append(self.register(made))
        return made

    def before(self, slot):
        inputs = {"model": self.models, "model_blessing": self.blessings}
        found = LastBlessedSlot(slot).resolve_artifacts(self.store, inputs)
        return [slot_of(model.uri) for model in found["model"]]


def test_a_slot_starts_from_the_last_blessed_one_not_from_the_last(tmp_path):
    found = Slots(tmp_path)
    for slot, blessed in ((3, True), (4, True), (5, False)):
        found.bless(found.model(slot), blessed)
    found.model(None)
    assert found.before(6) == [4]
    assert found.before(4) == [3] and found.before(3) == []


def test_a_slot_of_an_earlier_run_that_lies_ahead_is_not_looked_at(tmp_path):
    found = Slots(tmp_path)
    for slot in (3, 4, 5):
        found.bless(found.model(slot), True)
    assert found.before(4) == [3]


def test_a_slots_model_is_the_one_of_its_last_run(tmp_path):
    found = Slots(tmp_path)
    first, second = found.model(3), found.model(3)
    found.bless(first, True)
    found.bless(second, False)
    # The second run's model was refused; the first run's is not slot 3 any more.
    assert found.before(4) == []
    found.put_out(first)
    assert found.before(4) == [3]


def test_a_model_that_was_not_judged_or_refused_later_is_not_blessed(tmp_path):
    found = Slots(tmp_path)
    model = found.model(3)
    assert found.before(4) == []
    word = found.bless(model, True)
    found.bless(model, False)
    assert found.before(4) == []
    # The bound was changed back: the first word came from the cache.
    found.put_out(word)
    assert found.before(4) == [3]


# --- The command -------------------------------------------------------------------------------


def test_days_of_a_configuration_without_slots_are_refused(tmp_path):
    options = ["--config", "hillstrom", "--days", "2", "--output", str(tmp_path), "--verbose"]
    with pytest.raises(SpecError, match="--days 2: hillstrom trains one model on all its rows"):
        local_runner.main(options)


def test_no_days_at_all_are_refused(capsys):
    with pytest.raises(SystemExit):
        local_runner.main(["--config", "mtms", "--days", "0"])
    assert "1 or more would be right" in capsys.readouterr().err
