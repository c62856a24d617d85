"""The arms of MTMS's tables: their training data, and the measurement of one seed.

All arms of a seed use one world, one log and one set of constants. Nothing is tuned per arm. The
feed is the sparse scene, with one in seven requests, and the search is the dense one.

- Features are only ids: user, ad, category, advertiser and position. There are no segment,
  interests, age or dense features. These describe a user's taste in every scene, and then one
  scene can learn little from another.
- Each scene has its own ads (unless `shared_ads`), so that scenes share only users. If scenes also
  have different people, the second scene's tables should be useless.
- All ads pay for conversions, so that bid times conversion rate is the value of a click (the
  paper's `t_charge`).
- Rates are far above those of a real feed, and relevance affects conversions more than in the
  simulator's defaults. About 10,000 rows per day then hold enough conversions for training. These
  constants and the sizes were chosen on seeds that no table uses.

The first slot starts from scratch on the days up to its own. The second starts from the first, on
the last three days. Both models of a row are tested on the whole day after that. The test log of
the feed on that day is larger than a day of the training log, so that it has enough clicks to
distinguish arms.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tf_keras as keras

from benchmarks.clock import Clock
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import whole
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows
from tfmtl.metrics.tasks import auc, calibration, mae, normalized_entropy
from tfmtl.mtms.model import MTMSModel
from tfmtl.mtms.slot import train_slot
from tfmtl.mtms.store import scene_folder
from tfmtl.simulator.constants import EVENTS, Constants, Scene
from tfmtl.simulator.feed_test import Arm as Ranking
from tfmtl.simulator.feed_test import feed_test
from tfmtl.simulator.impressions import impression_log
from tfmtl.simulator.online import OnlineTest
from tfmtl.simulator.world import World, draw_world

FEED, SEARCH = "feed", "search"
WINDOW = 3
HISTORY = 5
SLOTS = (4, 5)
TEST_DAY = 6
TARGET = "cvr"
# The seed of the test log, which is not part of the training log.
TEST_SEED = 10_000
IDS = 2**30

PROBLEM = ProblemSpec(
    features=(
        categorical("user_id", dtype="int64", side="user", encoding="hash", size=IDS),
        categorical("ad_id", dtype="int64", side="ad", encoding="hash", size=IDS),
        categorical("category", side="ad", encoding="hash", size=IDS),
        categorical("advertiser_id", dtype="int64", side="ad", encoding="hash", size=IDS),
        categorical("scene", encoding="hash", size=2**20),
        categorical("position", encoding="identity", size=16),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary(TARGET, label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
    ),
    scene="scene",
    request_id="request_id",
    time="day",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """The settings of an arm; see `MTMS`.

    Args:
        losses: Losses of the embedding update.
        shared: Whether clicks and conversions share tables.
        aggregate: Whether the fine-tuned network also reads the clicks' tables.
        scenes: The scenes whose tables it reads.
    """

    losses: str
    shared: bool = False
    aggregate: bool = True
    scenes: tuple[str, ...] = (FEED,)


ARMS: Mapping[str, Arm] = {
    "apart_alone": Arm(losses="cvr_click", aggregate=False),
    "apart": Arm(losses="cvr_click"),
    "esmm": Arm(losses="esmm", shared=True),
    "mtms_shared": Arm(losses="mtms", shared=True),
    "mtms": Arm(losses="mtms"),
    "multi_scene": Arm(losses="mtms", scenes=(FEED, SEARCH)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the simulation.

    Args:
        users: Users of the world.
        ads: Ads of the world, half of them in each scene.
        impressions: Rows of the training log per day, both scenes together.
        test: Rows of the test log.
        requests: Requests of the online test.
    """

    users: int = 1_000
    ads: int = 400
    impressions: int = 80_000
    test: int = 300_000
    requests: int = 3_000


QUICK = Sizes(users=300, ads=120, impressions=12_000, test=40_000, requests=300)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The results of one seed.

    Attributes:
        offline: `auc@click`, `mae@click`, `ne@click` and `calibration@click` of conversions, by
            arm; also of the `truth` and of `zero`, which always predicts 0.
        online: The online test in the feed; `None` if it was not requested.
        rows: Numbers of rows of the training log and of the test, by kind.
        seconds: Seconds by part of the work.
    """

    offline: Mapping[str, Mapping[str, float]]
    online: OnlineTest | None
    rows: Mapping[str, int]
    seconds: Mapping[str, float]


def world_constants(
    sizes: Sizes, *, shared_users: bool = True, shared_ads: bool = False
) -> Constants:
    """The constants of all tables."""
    conversion = dataclasses.replace(EVENTS["conversion"], relevance=1.0)
    pool = 1.0 if shared_ads else 0.5
    return Constants(
        users=sizes.users,
        ads=sizes.ads,
        advertisers=sizes.ads // 10,
        objectives={"conversion": 1.0},
        bid_factors={"conversion": 12.0},
        events={**EVENTS, "conversion": conversion},
        # They differ like the simulator's own feed and search.
        scenes=(
            Scene(name=FEED, share=0.15, click=2.2, conversion=1.0, age=-0.3, pool=pool),
            Scene(name=SEARCH, share=0.85, click=2.8, conversion=1.25, age=0.4, pool=pool),
        ),
        shared_users=shared_users,
        shared_ads=shared_ads,
    )


def experiment(arm: Arm, seed: int) -> ExperimentConfig:
    """Problem, networks and training of an arm: the same for all arms, except for `Arm`."""
    return ExperimentConfig(
        name="mtms_arm",
        problem=PROBLEM,
        split=whole(),
        model=Model(dim=8, l2=1e-5),
        training=Training(epochs=2, batch_size=1024, learning_rate=2e-3, seed=seed),
        mtms=MTMS(
            scenes=arm.scenes,
            losses=arm.losses,
            shared=arm.shared,
            aggregate=arm.aggregate,
            update_units=(64, 32),
            fine_tune_units=(64, 32),
            fine_tune_epochs=3,
            # The paper fine-tunes only on conversions, and ranks by them.
            targets=(TARGET,),
            window=WINDOW,
            history=HISTORY,
        ),
    )


def study(
    seed: int,
    sizes: Sizes,
    *,
    arms: Sequence[str] = tuple(ARMS),
    shared_users: bool = True,
    shared_ads: bool = False,
    online: bool = True,
    trained: Callable[[], object] = lambda: None,
) -> Study:
    """Simulates a log, trains the arms on it day by day, and tests them in the feed.

    Args:
        seed: Seed of world, logs and models.
        sizes: Sizes of the simulation.
        arms: Names in `ARMS`.
        shared_users: Whether users are the same people in both scenes.
        shared_ads: Whether scenes show the same ads.
        online: Whether to test the arms online.
        trained: Called after each arm, to show progress.
    """
    clock, seconds = Clock(), {}
    constants = world_constants(sizes, shared_users=shared_users, shared_ads=shared_ads)
    world = draw_world(seed, days=TEST_DAY + 1, constants=constants)
    log = impression_log(world, impressions=sizes.impressions * TEST_DAY, seed=seed, days=TEST_DAY)
    tomorrow = _feed_on(world, TEST_DAY)
    test = impression_log(tomorrow, impressions=sizes.test, seed=seed + TEST_SEED, days=1)
    clicks = test.filter(pc.equal(test["click"], 1))
    pack = Preprocessor(PROBLEM)
    # All ids are hashes, so fitting on one row is enough: no encoding depends on the day.
    pack.fit(log.slice(0, 1))
    rows = ArrayRows(pack(clicks))
    seconds["log"] = clock.lap()
    models: dict[str, MTMSModel] = {}
    offline = {}
    label = clicks["conversion"].to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        for name in arms:
            # Without this, Keras keeps all graphs of earlier models in memory.
            keras.backend.clear_session()
            models[name] = _train(name, log, pack, seed, folder)
            predicted = models[name].predict_rows(rows.batches(1 << 13)).predictions[TARGET]
            offline[name] = _measures(label, predicted)
            trained()
            seconds[name] = clock.lap()
    offline["truth"] = _measures(label, clicks["true_cvr"].to_numpy())
    offline["zero"] = _measures(label, np.zeros(len(label)))
    test = None
    if online:
        test = feed_test(
            world,
            _rankings(models, pack),
            scene=FEED,
            requests=sizes.requests,
            day=TEST_DAY,
            seed=seed,
        )
        seconds["online"] = clock.lap()
    return Study(offline=offline, online=test, rows=_rows(log, clicks), seconds=seconds)


def gain(seed: int, sizes: Sizes, *, shared_users: bool = True, shared_ads: bool = False) -> float:
    """The AUC of conversions in the feed that is gained by reading the second scene's tables.

    Args:
        seed: Seed of world, logs and models.
        sizes: Sizes of the simulation.
        shared_users: See `study`.
        shared_ads: See `study`.
    """
    result = study(
        seed,
        sizes,
        arms=("mtms", "multi_scene"),
        shared_users=shared_users,
        shared_ads=shared_ads,
        online=False,
    )
    return gain_in(result)


def gain_in(result: Study) -> float:
    """The gain, computed from a study with both arms."""
    return result.offline["multi_scene"]["auc@click"] - result.offline["mtms"]["auc@click"]


def _feed_on(world: World, day: int) -> World:
    """The world on one of its days, with visits only in the feed."""
    feed, *others = world.constants.scenes
    scenes = (feed, *(dataclasses.replace(scene, share=0.0) for scene in others))
    constants = dataclasses.replace(world.constants, scenes=scenes)
    return dataclasses.replace(world, appeal=world.appeal[day : day + 1], constants=constants)


def _train(name: str, log: pa.Table, pack: Preprocessor, seed: int, folder: str) -> MTMSModel:
    arm = ARMS[name]
    declared = experiment(arm, seed)
    previous = None
    for slot in SLOTS:
        days = WINDOW if previous else HISTORY
        chosen = pc.and_(pc.greater(log["day"], slot - days), pc.less_equal(log["day"], slot))
        chosen = pc.and_(chosen, pc.is_in(log["scene"], pa.array(arm.scenes)))
        slot_folder = os.path.join(folder, name, str(slot))
        _adopt(name, folder, slot)
        rows = ArrayRows(pack(log.filter(chosen)))
        model = train_slot(
            declared, rows, slot=slot, folder=slot_folder, previous=previous, verbose=0
        )
        previous = slot_folder
    return model


def _adopt(name: str, folder: str, slot: int) -> None:
    """Copies the tables of arms with the same update, so that they are not trained again.

    If the update differs, the fingerprints differ, and the tables are trained.
    """
    arm = ARMS[name]
    for other, known in ARMS.items():
        there = os.path.join(folder, other, str(slot))
        alike = (known.losses, known.shared) == (arm.losses, arm.shared)
        if other == name or not alike or not os.path.isdir(there):
            continue
        for scene in known.scenes:
            source = scene_folder(there, scene)
            target = scene_folder(os.path.join(folder, name, str(slot)), scene)
            for part in os.listdir(source):
                if part.startswith("update-") and not os.path.exists(os.path.join(target, part)):
                    shutil.copytree(os.path.join(source, part), os.path.join(target, part))


def _measures(label: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "auc@click": auc(label, predicted),
        "mae@click": mae(label, predicted),
        "ne@click": normalized_entropy(label, predicted),
        "calibration@click": calibration(label, predicted),
    }


def _rankings(models: Mapping[str, MTMSModel], pack: Preprocessor) -> dict[str, Ranking]:
    """Each arm as a ranking by bid times conversion rate; rows are packed once for all arms."""
    last: list[tuple[pa.Table, ArrayRows]] = []

    def packed(table: pa.Table) -> ArrayRows:
        if not last or last[0][0] is not table:
            last[:] = [(table, ArrayRows(pack(table)))]
        return last[0][1]

    def by(model: MTMSModel) -> Ranking:
        def score(table: pa.Table) -> np.ndarray:
            batches = packed(table).batches(1 << 14)
            rates = np.concatenate([model(batch)[TARGET].numpy() for batch in batches])
            return table["bid"].to_numpy() * rates

        return score

    return {name: by(model) for name, model in models.items()}


def _rows(log: pa.Table, clicks: pa.Table) -> dict[str, int]:
    counts = {"test clicks": len(clicks), "test conversions": pc.sum(clicks["conversion"]).as_py()}
    for scene in (FEED, SEARCH):
        of_scene = log.filter(pc.equal(log["scene"], scene))
        counts[f"{scene} impressions"] = len(of_scene)
        counts[f"{scene} clicks"] = pc.sum(of_scene["click"]).as_py()
        counts[f"{scene} conversions"] = pc.sum(of_scene["conversion"]).as_py()
    return counts
