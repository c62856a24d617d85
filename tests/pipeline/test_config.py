import os
import sys

import pytest

from pipeline import local_runner
from pipeline.config import check, known_names, load
from pipeline.data import data_of, replay_of
from pipeline.lock import alone
from tfmtl.declare.experiment import ExperimentConfig, Tuning
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import DataError, SpecError

SA_3 = AutoMTL(interactions=[("sa-3", {"name": "self_attention", "heads": 3})])
MINIMAL = """
from tfmtl import ExperimentConfig, ProblemSpec, binary, by_row_number, numerical

PROBLEM = ProblemSpec(features=(numerical("x"),), tasks=(binary("y", label="y"),))
EXPERIMENT = ExperimentConfig(name="tiny", problem=PROBLEM, split=by_row_number())
"""


def written(folder, text, name="my_config.py"):
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", known_names())
def test_every_shipped_configuration_is_sound_and_survives_json(name):
    experiment = load(name).experiment
    check(experiment)
    assert experiment.name == name
    assert ExperimentConfig.from_json(experiment.to_json()) == experiment


def test_census_reads_the_39_features_of_the_paper():
    problem = load("census_income").experiment.problem
    assert len(problem.features) == 39
    assert not {"instance_weight", "income", "marital_stat"} & set(problem.feature_columns())


def test_the_simulated_log_never_shows_its_truth_to_the_model():
    columns = load("simulated_ads").experiment.problem.columns()
    assert not [name for name in columns if name.startswith("true_")]


def test_hillstrom_ranks_purchases_on_visits_alone():
    problem = load("hillstrom").experiment.problem
    assert problem.metric_name("purchase", "auc") == "purchase/auc@visit"


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(SpecError, match="Did you mean 'hillstrom'"):
        load("hilstrom")


def test_a_mistyped_file_is_answered_with_the_nearest(tmp_path):
    written(tmp_path, MINIMAL)
    with pytest.raises(SpecError, match="no file .*Did you mean 'my_config.py'"):
        load(str(tmp_path / "my_confg.py"))


def test_a_file_without_an_experiment_is_told_what_is_missing(tmp_path):
    path = written(tmp_path, "EXPERIMNT = 1\n")
    with pytest.raises(SpecError, match=r"EXPERIMENT is not defined.*\['EXPERIMNT'\]"):
        load(path)


def test_an_error_in_a_file_is_told_with_its_line(tmp_path):
    path = written(tmp_path, MINIMAL + "BATCH = batch_size\n")
    with pytest.raises(SpecError, match="line 6: NameError: name 'batch_size'"):
        load(path)
    path = written(tmp_path, MINIMAL + "EXPERIMENT = (\n")
    with pytest.raises(SpecError, match="line 6: SyntaxError"):
        load(path)


def test_a_contradiction_in_a_file_keeps_its_sentence(tmp_path):
    path = written(tmp_path, MINIMAL.replace('numerical("x")', 'numerical("y")'))
    with pytest.raises(SpecError, match="line 4: task 'y': its label 'y' is also read"):
        load(path)


def test_a_file_can_import_its_neighbour_and_leaves_the_path_as_it_was(tmp_path):
    written(tmp_path, "EPOCHS = 7\n", "house_settings.py")
    text = "from house_settings import EPOCHS\n" + MINIMAL
    before = list(sys.path)
    load(written(tmp_path, text))
    assert sys.path == before


def test_the_data_of_a_file_lie_relative_to_the_file(tmp_path):
    config = load(written(tmp_path, MINIMAL + 'DATA = "rows.csv"\n'))
    assert config.data == str(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.backbone.num_expert", 4, "no argument 'num_expert'.*Did you mean 'num_experts'"),
        ("model.conv_semantics", "esmm", "needs three binary tasks"),
        ("model.backbone", {"name": "star"}, "star treats scenes apart, but the problem declares"),
        ("model.terms", ({"name": "pwiser"},), "pwiser: the tasks are no funnel"),
        ("training.embedding_optimizer", "adamm", "unknown optimizer 'adamm'"),
        ("training.monitor", "y/auc@imp2", "the name is 'y/auc@imp'"),
        ("training.monitor", "z/auc@imp", "no task 'z'"),
        ("training.monitor", "auc", "'y/auc@imp'"),
        ("training.monitor", "y/logloss@imp", "unknown metric 'logloss'.*mean 'log_loss'"),
        ("training.monitor", "y/calibration@imp", "best at 1, neither high nor low"),
        ("tuning", Tuning(space={"training.rate": [1, 2]}), "Training has no field 'rate'"),
        ("tuning", Tuning(space={"model.backbone.name": ["mmoe", "mmo"]}), "Did you mean 'mmoe'"),
        ("search", AutoMTL(hidden=[("a", {"name": "mpl"})]), "unknown hidden 'mpl'.*mean 'mlp'"),
        (
            "search",
            AutoMTL(hidden=[("a", {"name": "gate"})] * 2),
            "labels .* more than once",
        ),
        ("search", AutoMTL(warm_up_epochs=10), "warm_up_epochs=10 of epochs=10"),
        ("search", SA_3, "heads=3 do not divide the fields' width dim=16"),
    ],
)
def test_what_would_fail_after_reading_the_data_is_refused_before(tmp_path, path, value, message):
    experiment = load(written(tmp_path, MINIMAL)).experiment
    with pytest.raises(SpecError, match=message):
        check(experiment.replace_path(path, value))


def options(*arguments):
    return local_runner.parser().parse_args(arguments)


def test_the_command_line_changes_fields_by_path(tmp_path):
    experiment = load(written(tmp_path, MINIMAL)).experiment
    changed = local_runner.with_options(
        experiment, options("--epochs", "3", "--set", "model.backbone.expert_units=(8,)")
    )
    assert changed.training.epochs == 3
    assert changed.model.backbone["expert_units"] == (8,)
    with pytest.raises(SpecError, match="Training has no field 'epoch'"):
        local_runner.with_options(experiment, options("--set", "training.epoch=3"))


def test_a_search_can_be_left_out_and_must_be_declared_to_be_asked_for(tmp_path):
    experiment = load(written(tmp_path, MINIMAL)).experiment
    with pytest.raises(SpecError, match="declares no search"):
        local_runner.with_options(experiment, options("--tune"))
    searched = experiment.replace_path("tuning", Tuning(space={"training.epochs": (1, 2)}))
    assert local_runner.with_options(searched, options()).tuning is not None
    assert local_runner.with_options(searched, options("--no-tune")).tuning is None


def test_settings_come_from_the_environment_where_tfx_runs_the_file(monkeypatch):
    monkeypatch.setenv("TFMTL_CONFIG", "hillstrom")
    monkeypatch.setenv("TFMTL_DATA", "rows.csv")
    assert options().config == "hillstrom" and options().data == "rows.csv"
    assert options("--config", "census_income").config == "census_income"


def test_data_that_are_not_there_are_told_before_anything_is_loaded(tmp_path):
    config = load(written(tmp_path, MINIMAL))
    with pytest.raises(DataError, match="comes without data"):
        data_of(config, options(), str(tmp_path))
    with pytest.raises(DataError, match="not there"):
        data_of(config, options("--data", str(tmp_path / "no.csv")), str(tmp_path))


def test_data_are_generated_once_and_not_half(tmp_path):
    generator = (
        "def generate(path):\n"
        "    open(path + '/rows.csv', 'w').write('x,y\\n1,1\\n')\n"
        "    open(path + '/../runs', 'a').write('.')\n"
        "    if len(open(path + '/../runs').read()) == 1: raise OSError('disk full')\n"
    )
    config = load(written(tmp_path, MINIMAL + generator))
    with pytest.raises(OSError, match="disk full"):
        data_of(config, options(), str(tmp_path))
    folders = {data_of(config, options(), str(tmp_path)) for _ in range(3)}
    assert len(folders) == 1
    assert (tmp_path / "data" / "runs").read_text() == ".."


REPLAYED = """
from tfmtl import (
    ExperimentConfig, ProblemSpec, Replay, TotalValue, binary, by_hash, numerical,
)

PROBLEM = ProblemSpec(
    features=(numerical("x"),), tasks=(binary("ctr", label="y"),), request_id="request_id"
)
EXPERIMENT = ExperimentConfig(
    name="tiny",
    problem=PROBLEM,
    split=by_hash("request_id"),
    value=TotalValue(actions={"cpc": "click"}, cqs=None),
    replay=Replay(),
)
"""
GENERATE = """
def generate(path):
    import os
    for name in ("log", "replay"):
        os.makedirs(path + "/" + name)
        open(path + "/" + name + "/rows.csv", "w").write("x,y\\n1,1\\n")
"""


def test_a_replay_log_is_generated_with_the_data_in_a_folder_of_its_own(tmp_path):
    config = load(written(tmp_path, REPLAYED + GENERATE))
    data = data_of(config, options(), str(tmp_path))
    replay = replay_of(config, config.experiment, options(), str(tmp_path))
    assert os.path.basename(data) == "log" and os.path.isfile(f"{data}/rows.csv")
    assert replay == os.path.join(os.path.dirname(data), "replay")


def test_the_replay_log_of_a_file_lies_relative_to_it_and_goes_with_its_own_data(tmp_path):
    config = load(written(tmp_path, REPLAYED + 'DATA = "a.csv"\nREPLAY = "b.csv"\n'))
    for name in ("a.csv", "b.csv", "mine.csv", "my_replay.csv"):
        (tmp_path / name).write_text("x,y\n1,1\n")
    output = str(tmp_path)
    assert replay_of(config, config.experiment, options(), output) == str(tmp_path / "b.csv")
    mine = options("--data", str(tmp_path / "mine.csv"))
    with pytest.raises(DataError, match="none is given.*--replay"):
        replay_of(config, config.experiment, mine, output)
    given = str(tmp_path / "my_replay.csv")
    both = options("--data", str(tmp_path / "mine.csv"), "--replay", given)
    assert replay_of(config, config.experiment, both, output) == given
    with pytest.raises(DataError, match="not there"):
        replay_of(config, config.experiment, options("--replay", "no.csv"), output)


def test_own_rows_without_a_replay_log_need_none_once_recall_is_left_out(tmp_path):
    config = load(written(tmp_path, REPLAYED + GENERATE))
    mine = options("--data", "rows.csv", "--set", "replay=None")
    with pytest.raises(DataError, match="--set replay=None"):
        replay_of(config, config.experiment, mine, str(tmp_path))
    without = local_runner.with_options(config.experiment, mine)
    assert replay_of(config, without, mine, str(tmp_path)) is None


def test_a_replay_log_that_no_one_asked_for_is_refused(tmp_path):
    config = load(written(tmp_path, MINIMAL))
    with pytest.raises(DataError, match="declares no replay"):
        replay_of(config, config.experiment, options("--replay", "b.csv"), str(tmp_path))


def test_the_early_stage_learns_from_early_features_and_is_judged_on_later_days():
    experiment = load("early_stage").experiment
    columns = experiment.problem.feature_columns()
    assert not [n for n in columns if n.startswith(("final_", "true_")) or n == "position"]
    assert experiment.split.rule == "time" and experiment.split.bounds == (8, 9)


def test_the_users_mistake_is_found_under_whatever_wrapped_it():
    try:
        try:
            raise DataError("line 7: 'cheap'")
        except DataError as inner:
            raise RuntimeError("component failed") from inner
    except RuntimeError as error:
        assert local_runner.explanation(error) == "line 7: 'cheap'"
    text = "Traceback ...\ntfmtl.errors.DataError: line 7: 'cheap' [while running 'Analyze']\n"
    assert local_runner.explanation(RuntimeError(text)) == "line 7: 'cheap'"
    assert local_runner.explanation(RuntimeError("a mistake of ours")) is None


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path):
    with alone(str(tmp_path)), pytest.raises(DataError, match="another run"):
        with alone(str(tmp_path)):
            pass
    with alone(str(tmp_path)):
        pass
