import dataclasses

import numpy as np
import pytest

from tfmtl.simulator import (
    FEED,
    PLAIN_FEED,
    SEARCH,
    Constants,
    Funnel,
    consolidated_log,
    draw_world,
    impression_log,
    logging_policy,
    many_scenes,
    retrieve,
    true_logits,
)

OWN_USERS = Constants(shared_users=False)
OWN_ADS = Constants(shared_ads=False)
USERS = Constants().users


@pytest.fixture(scope="module")
def shared():
    return draw_world(3)


@pytest.fixture(scope="module")
def own():
    return draw_world(3, constants=OWN_USERS)


@pytest.fixture(scope="module")
def logs(shared, own):
    return {
        name: impression_log(world, impressions=60_000, seed=5)
        for name, world in (("shared", shared), ("own", own))
    }


def of_scene(table, name):
    return table.filter(np.asarray(table["scene"]) == name).combine_chunks()


def test_a_user_is_one_person_in_all_scenes_or_another_in_each(shared, own):
    assert shared.people([4, 4], [0, 1]).tolist() == [4, 4]
    assert own.people([4, 4], [0, 1]).tolist() == [4, USERS + 4]
    assert len(shared.user_latent) == USERS and len(own.user_latent) == 2 * USERS


def test_whether_scenes_share_users_changes_nothing_of_the_first_scene(shared, own):
    for name in ("user_latent", "clicker", "closer", "segment", "interests", "age", "user_dense"):
        np.testing.assert_array_equal(getattr(own, name)[:USERS], getattr(shared, name), name)
    for name in ("ad_latent", "bid", "appeal", "ad_dense", "pool_start"):
        np.testing.assert_array_equal(getattr(own, name), getattr(shared, name), name)
    np.testing.assert_array_equal(own.visits[0], shared.visits[0])
    for ours, theirs in zip(own.pool, shared.pool, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_true_logits_differ_between_the_worlds_in_further_scenes_alone(shared, own):
    users, ads = np.arange(500)[:, None], np.arange(40)
    for scene, equal in ((0, True), (1, False)):
        ours, theirs = (true_logits(w, users, ads, day=2, scene=scene) for w in (own, shared))
        for event in ours:
            assert (ours[event] == theirs[event]).all() == equal, (scene, event)
    without = true_logits(own, users, ads, day=2)
    np.testing.assert_array_equal(without["xout"], true_logits(own, users, ads, scene=0)["xout"])


def test_the_first_scene_s_rows_are_the_same_in_both_worlds_to_the_bit(logs):
    feeds = [of_scene(logs[name], "feed") for name in ("shared", "own")]
    assert feeds[0].num_rows > 30_000
    assert feeds[0].equals(feeds[1])
    searches = [of_scene(logs[name], "search") for name in ("shared", "own")]
    assert not searches[0]["click"].equals(searches[1]["click"])


def test_what_is_known_of_a_user_id_in_one_scene_says_nothing_in_the_other(own):
    first, second = slice(0, USERS), slice(USERS, None)
    hidden = np.column_stack([own.user_latent, own.clicker, own.closer, own.age, own.user_dense])
    correlation = np.corrcoef(hidden[first].T, hidden[second].T)
    width = hidden.shape[1]
    assert np.abs(correlation[:width, width:]).max() < 5 / np.sqrt(USERS)
    # Of those who like one category best, nobody is likelier to like it there.
    agreement = (own.segment[first] == own.segment[second]).mean()
    chance = (np.bincount(own.segment, minlength=20) / len(own.segment)) ** 2
    assert agreement == pytest.approx(chance.sum(), abs=4 * np.sqrt(chance.sum() / USERS))
    activity = np.log(own.visits) - np.log(own.visits).mean(axis=1, keepdims=True)
    assert abs(np.corrcoef(activity)[0, 1]) < 5 / np.sqrt(USERS)


def test_people_of_a_scene_of_its_own_are_drawn_as_the_others_are(own):
    first, second = slice(0, USERS), slice(USERS, None)
    for name in ("user_latent", "clicker", "closer", "age"):
        values = getattr(own, name)
        assert values[second].std() == pytest.approx(values[first].std(), rel=0.05), name
        error = np.sqrt(2 / USERS) * values.std()
        assert abs(values[second].mean() - values[first].mean()) < 4 * error, name


def test_a_dense_feature_means_the_same_of_everyone(own):
    first, second = slice(0, USERS), slice(USERS, None)
    learnt, *_ = np.linalg.lstsq(own.user_dense[first], own.user_latent[first], rcond=None)
    found = own.user_dense[second] @ learnt
    assert np.corrcoef(found.ravel(), own.user_latent[second].ravel())[0, 1] > 0.9


def test_the_log_names_users_by_the_same_ids_and_shows_who_they_are_in_the_scene(own, logs):
    log = logs["own"].drop(["interests"]).to_pandas()
    assert log.user_id.max() < USERS
    scene = (log.scene == "search").to_numpy().astype(int)
    np.testing.assert_array_equal(log.age, own.age[own.people(log.user_id, scene)])
    segments = log.groupby(["user_id", "scene"]).segment.nunique()
    assert (segments == 1).all()
    both = log.groupby("user_id").segment.nunique()
    assert (both[log.groupby("user_id").scene.nunique() == 2] == 2).mean() > 0.8


@pytest.mark.parametrize("scene", ["feed", "search"])
def test_the_log_s_ads_match_the_interests_of_the_scene_s_own_people(logs, scene):
    rows = of_scene(logs["own"], scene)
    interests = np.array(rows["interests"].to_pylist())
    matched = (interests == np.array(rows["category"].to_pylist())[:, None]).any(axis=1)
    assert 0.6 < matched.mean() < 0.75


@pytest.mark.parametrize("name", ["shared", "own"])
def test_labels_follow_the_truth_of_the_scene_s_own_people(logs, name):
    log = logs[name].drop(["interests"]).to_pandas()
    for _, rows in log.groupby("scene"):
        error = np.sqrt((rows.true_ctr * (1 - rows.true_ctr)).sum())
        assert abs(rows.click.sum() - rows.true_ctr.sum()) < 4 * error
    world = draw_world(3, constants=Constants(shared_users=name == "shared"))
    rows = log.iloc[:2_000]
    logits = true_logits(
        world,
        rows.user_id,
        rows.ad_id,
        events=["click"],
        day=rows.day.to_numpy(),
        scene=(rows.scene == "search").to_numpy().astype(int),
        position=rows.position.to_numpy(),
    )
    np.testing.assert_allclose(rows.true_ctr, 1 / (1 + np.exp(-logits["click"])), rtol=1e-12)


def test_a_funnel_retrieves_by_the_interests_of_the_scene_s_own_people():
    constants = Constants(scenes=(PLAIN_FEED, SEARCH), shared_users=False)
    world = draw_world(2, constants=constants)
    found = retrieve(world, Funnel(matched=1.0, retrieved=40), requests=600)
    person = world.people(found.user, found.scene)
    for people, least, most in ((person, 0.95, 1.0), (found.user, 0.0, 0.6)):
        match = world.interests[people][:, None, :] == world.category[found.ad][:, :, None]
        share = match.any(axis=2).mean(axis=1)[found.scene == 1].mean()
        assert least <= share <= most
    log = consolidated_log(world, Funnel(), logging_policy(world), requests=300)
    rows = log.select(["user_id", "scene", "age"]).to_pandas()
    people = world.people(rows.user_id, (rows.scene == "search").to_numpy().astype(int))
    np.testing.assert_array_equal(rows.age, world.age[people])


def test_ads_that_are_not_shared_belong_to_one_scene_each_in_proportion_to_the_pools(shared):
    world = draw_world(3, constants=OWN_ADS)
    assert sorted(np.concatenate(world.pool)) == list(range(2_000))
    sizes = np.array([len(pool) for pool in world.pool])
    np.testing.assert_array_equal(sizes, [1143, 857])
    log = impression_log(world, impressions=20_000).select(["scene", "ad_id"]).to_pandas()
    ads = log.groupby("scene").ad_id.agg(set)
    assert not ads.feed & ads.search and len(ads.search) > 700
    np.testing.assert_array_equal(world.user_latent, shared.user_latent)
    np.testing.assert_array_equal(world.ad_latent, shared.ad_latent)
    assert set(world.pool[0]) < set(shared.pool[0])


def test_a_further_scene_with_users_of_its_own_leaves_the_others_as_they_were():
    two, three = (
        draw_world(4, days=2, constants=Constants(scenes=many_scenes(n), shared_users=False))
        for n in (2, 3)
    )
    np.testing.assert_array_equal(three.user_latent[: 2 * USERS], two.user_latent)
    np.testing.assert_array_equal(three.user_dense[: 2 * USERS], two.user_dense)
    np.testing.assert_array_equal(three.visits[:2], two.visits)


def test_too_few_ads_for_scenes_that_share_none_are_refused():
    with pytest.raises(ValueError, match="ads=10, of which pools .* leave a scene none"):
        Constants(scenes=many_scenes(50), ads=10, shared_ads=False)
    nowhere = tuple(dataclasses.replace(scene, pool=0.0) for scene in (FEED, SEARCH))
    with pytest.raises(ValueError, match="leave a scene none"):
        Constants(scenes=nowhere, shared_ads=False)
    assert Constants(scenes=many_scenes(50), ads=10).shared_ads


def test_many_scenes_have_zipf_s_shares_and_differ_in_all_else():
    scenes = many_scenes(50)
    assert [scene.name for scene in scenes[:2]] == ["scene_00", "scene_01"]
    assert scenes[-1].name == "scene_49"
    np.testing.assert_allclose([1 / scene.share for scene in scenes], np.arange(1, 51))
    for name in ("click", "conversion", "age", "pool"):
        values = [getattr(scene, name) for scene in scenes]
        assert len(set(values)) == 50 and np.std(values) > 0.08, name
    assert all(0.4 <= scene.pool <= 0.8 for scene in scenes)


def test_a_scene_depends_on_its_seed_and_not_on_how_many_are_drawn():
    assert many_scenes(50)[:7] == many_scenes(7)
    assert many_scenes(7, seed=1)[3].click != many_scenes(7)[3].click
    with pytest.raises(ValueError, match="count=0"):
        many_scenes(0)


@pytest.mark.parametrize("shared_users", [True, False])
def test_a_log_of_fifty_scenes_has_rows_of_each_in_proportion_to_its_share(shared_users):
    constants = Constants(scenes=many_scenes(50), shared_users=shared_users)
    world = draw_world(0, days=1, constants=constants)
    log = impression_log(world, impressions=60_000, days=1)
    scene = log.select(["request_id", "scene"]).to_pandas().drop_duplicates().scene
    counts = scene.value_counts()
    expected = np.array([s.share for s in constants.scenes])
    expected *= len(scene) / expected.sum()
    found = np.array([counts[s.name] for s in constants.scenes])
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()
