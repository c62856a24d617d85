"""The arms of MTMS's tables: what each is trained on, and how one seed is measured.

One world, one log and one set of constants for all arms of a seed; nothing is tuned an arm. The
feed is the sparse scene, with one in seven requests, and the search the dense one.

- Features are ids alone: user, ad, category, advertiser and position. Neither a segment, nor
  interests, age or dense features are given: they tell every scene of a user's taste at once, and
  then little is left that one scene could learn from another.
- Scenes have ads of their own (unless `shared_ads`), so that users are all they share: in worlds
  whose scenes have people of their own, the second scene's tables should then be of no use.
- All ads pay for conversions, so that bid times conversion rate is what a click is worth (the
  paper's `t_charge`).
- Rates are far above a real feed's and relevance weighs more in a conversion than in the
  simulator's defaults, so that some ten thousand rows a day hold enough conversions to learn from.
  These constants and the sizes were chosen on seeds that no table uses.

The first slot starts fresh on the days up to its own, the second from it on the last three days.
Both models of a row are tested on the whole day after that: a log of the feed on that day, larger
than the day of the training log, whose clicks are many enough to tell arms apart.
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
# Of a log that is no part of the training log.
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
    """What sets an arm apart; see `MTMS`.

    Args:
        losses: Of the embedding update.
        shared: Whether clicks and conversions share tables.
        aggregate: Whether the fine-tuned network reads the clicks' tables too.
        scenes: Scenes whose tables it reads.
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
    """How much is simulated.

    Args:
        users: Users of the world.
        ads: Ads of the world, half of them in each scene.
        impressions: Rows of the training log a day, of both scenes.
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
    """What one seed found.

    Attributes:
        offline: `auc@click`, `mae@click`, `ne@click` and `calibration@click` of conversions, by
            arm; also of the `truth` and of a `zero`, who predicts no conversion ever.
        online: The test of the feed; `None` where none was asked for.
        rows: Rows of the training log and of the test, by what they are.
        seconds: Where the time went.
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
        # They differ as the simulator's own feed and search do.
        scenes=(
            Scene(name=FEED, share=0.15, click=2.2, conversion=1.0, age=-0.3, pool=pool),
            Scene(name=SEARCH, share=0.85, click=2.8, conversion=1.25, age=0.4, pool=pool),
        ),
        shared_users=shared_users,
        shared_ads=shared_ads,
    )


def experiment(arm: Arm, seed: int) -> ExperimentConfig:
    """Problem, networks and training of an arm: the same for all but what `Arm` says."""
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
            # The paper's fine-tuning is on conversions alone, and they are what is ranked by.
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
    """Simulates a log, trains the arms on it day by day, and measures them in the feed.

    Args:
        seed: Of world, logs and models.
        sizes: How much is simulated.
        arms: Names of `ARMS`.
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
    # All ids are hashes: there is nothing to fit that would differ from day to day.
    pack.fit(log.slice(0, 1))
    rows = ArrayRows(pack(clicks))
    seconds["log"] = clock.lap()
    models: dict[str, MTMSModel] = {}
    offline = {}
    label = clicks["conversion"].to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        for name in arms:
            # Keras keeps every graph it has built.
            keras.backend.clear_session()
            models[name] = _train(name, log, pack, seed, folder)
            predicted = models[name].predict_rows(rows.batches(1 << 13)).predictions[TARGET]
            offline[name] = _measures(label, predicted)
            trained()
            seconds[name] = clock.lap()
    offline["truth"] = _measures(label, clicks["true_cvr"].to_numpy())
    offline["zero"] = _measures(label, np.zeros(len(label)))
    found = None
    if online:
        found = feed_test(
            world,
            _rankings(models, pack),
            scene=FEED,
            requests=sizes.requests,
            day=TEST_DAY,
            seed=seed,
        )
        seconds["online"] = clock.lap()
    return Study(offline=offline, online=found, rows=_rows(log, clicks), seconds=seconds)


def gain(seed: int, sizes: Sizes, *, shared_users: bool = True, shared_ads: bool = False) -> float:
    """What reading the second scene's tables adds to the AUC of conversions in the feed.

    Args:
        seed: Of world, logs and models.
        sizes: How much is simulated.
        shared_users: As `study` takes it.
        shared_ads: As `study` takes it.
    """
    found = study(
        seed,
        sizes,
        arms=("mtms", "multi_scene"),
        shared_users=shared_users,
        shared_ads=shared_ads,
        online=False,
    )
    return gain_in(found)


def gain_in(found: Study) -> float:
    """The same, of a study of both arms."""
    return found.offline["multi_scene"]["auc@click"] - found.offline["mtms"]["auc@click"]


def _feed_on(world: World, day: int) -> World:
    """The world on one of its days, with the feed as the only scene that anyone visits."""
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
        own = os.path.join(folder, name, str(slot))
        _adopt(name, folder, slot)
        rows = ArrayRows(pack(log.filter(chosen)))
        model = train_slot(declared, rows, slot=slot, folder=own, previous=previous, verbose=0)
        previous = own
    return model


def _adopt(name: str, folder: str, slot: int) -> None:
    """Copies tables from arms that update them alike; they are then not trained again.

    Where they would have been trained otherwise, their fingerprints differ, and they are.
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
    """Each arm by bid times its conversion rate; rows are packed once for all of them."""
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
    found = {"test clicks": len(clicks), "test conversions": pc.sum(clicks["conversion"]).as_py()}
    for scene in (FEED, SEARCH):
        own = log.filter(pc.equal(log["scene"], scene))
        found[f"{scene} impressions"] = len(own)
        found[f"{scene} clicks"] = pc.sum(own["click"]).as_py()
        found[f"{scene} conversions"] = pc.sum(own["conversion"]).as_py()
    return found
