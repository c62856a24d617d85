"""PWiseR: its value against the double loop, its gradients, and what it asks of a machine."""

import multiprocessing
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tfmtl.losses.pairwise
from tfmtl.losses.pairwise import GATES, METHODS, NORMALIZATIONS, pwiser

OPTIONS = [(g, n, m) for g in GATES for n in NORMALIZATIONS for m in METHODS]
CLICK_ONLY, CONVERTED, NO_CLICK = (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)


def loss(s, labels, w=None, **options):
    click, conversion = np.array(labels, np.float64).reshape(-1, 2).T
    return float(pwiser(np.array(s, np.float64), click, conversion, w, **options))


def slopes(s, labels, w=None, **options):
    s = tf.constant(s, tf.float64)
    click, conversion = tf.unstack(tf.reshape(tf.constant(labels, tf.float64), [-1, 2]), axis=1)
    with tf.GradientTape() as tape:
        tape.watch(s)
        value = pwiser(s, click, conversion, w, **options)
    return tape.gradient(value, s).numpy()


def double_loop(s, labels, w=None, *, gate="hinge", normalize="paper", m1=0.3, m2=0.3):
    """Equation 2 as it stands, with weights as so many copies."""
    w = np.ones(len(s)) if w is None else w
    rows = [(x, tuple(kind), n) for x, kind, n in zip(s, labels, w, strict=True) if n > 0]
    total, positives = 0.0, [(x, n) for x, kind, n in rows if kind == CONVERTED]
    for group, m in ((CLICK_ONLY, m1), (NO_CLICK, m2)):
        rivals = [(x, n) for x, kind, n in rows if kind == group]
        for x, n in rivals:
            for p, k in positives:
                is_open = p < x + m if gate == "hinge" else p < x - m
                total += is_open * n * k * (x - p + m) ** 2 / sum(n for _, n in rivals)
    return total / sum(n for _, n in positives) if normalize == "pairs" and positives else total


KINDS = st.sampled_from([CLICK_ONLY, CONVERTED, NO_CLICK, (0.0, 1.0)])
ROWS = st.lists(
    # A grid off which no margin leads from one score to another: no gate is a matter of rounding.
    st.tuples(st.integers(0, 64).map(lambda i: i / 64), KINDS, st.sampled_from([1.0, 0.0, 2.5])),
    max_size=64,
)
MARGINS = st.sampled_from([0.0, 0.1, 0.3, 0.7])


@settings(max_examples=60, deadline=None)
@given(ROWS, MARGINS, MARGINS, st.sampled_from(OPTIONS))
@example([], 0.3, 0.3, OPTIONS[0])
@example([(0.5, CONVERTED, 1.0)], 0.3, 0.3, OPTIONS[1])
@example([(0.5, NO_CLICK, 1.0), (0.4, CLICK_ONLY, 1.0)], 0.3, 0.3, OPTIONS[1])
@example([(0.9, NO_CLICK, 1.0), (0.4, CONVERTED, 1.0)], 0.3, 0.3, OPTIONS[4])
def test_every_form_is_the_double_loop(rows, m1, m2, form):
    s, labels, w = ([row[i] for row in rows] for i in range(3))
    gate, normalize, method = form
    margins = {"margin_click": m1, "margin_no_click": m2}
    found = loss(s, labels, np.array(w), gate=gate, normalize=normalize, method=method, **margins)
    wanted = double_loop(s, labels, w, gate=gate, normalize=normalize, m1=m1, m2=m2)
    assert found >= 0
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_the_case_worked_by_hand(method):
    s, labels = [0.5, 0.4, 0.1], [CLICK_ONLY, CONVERTED, NO_CLICK]
    # 0.5 − 0.4 + 0.3 = 0.4 for the click; 0.4 is already 0.3 above the 0.1 without one.
    assert loss(s, labels, method=method) == pytest.approx(0.4**2, abs=1e-15)
    # The printed gate wants the click to be 0.3 above the conversion; it is 0.1 above.
    assert loss(s, labels, method=method, gate="literal") == 0.0
    assert loss([0.8, 0.4, 0.1], labels, method=method, gate="literal") == pytest.approx(0.49)


def random_batch(seed=0, rows=60):
    rng = np.random.default_rng(seed)
    kinds = np.array([CLICK_ONLY, CONVERTED, NO_CLICK])
    return rng.random(rows), kinds[rng.integers(0, 3, rows)]


@pytest.mark.parametrize("form", OPTIONS, ids="-".join)
def test_gradients_are_finite_differences_on_both_sides(form):
    gate, normalize, method = form
    options = {"gate": gate, "normalize": normalize, "method": method}
    s, labels = random_batch(rows=30)
    w = np.where(np.arange(30) % 5 == 0, 0.0, 1.0 + np.arange(30) % 3)
    step, wanted = 1e-6, []
    for i in range(30):
        nudge = step * (np.arange(30) == i)
        above, below = (loss(s + d, labels, w, **options) for d in (nudge, -nudge))
        wanted.append((above - below) / (2 * step))
    found = slopes(s, labels, w, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found[w == 0], 0.0)
    converted = (labels == CONVERTED).all(axis=1)
    assert (found[converted] <= 0).all() and (found[~converted] >= 0).all()
    assert found[converted].any()
    assert found.sum() == pytest.approx(0, abs=1e-12)


def test_both_methods_have_the_same_gradients_whatever_the_size_of_a_block(monkeypatch):
    s, labels = random_batch(1, 500)
    wanted = slopes(s, labels, method="sorted")
    for block in (1, 999, 4_000_000):
        monkeypatch.setattr(tfmtl.losses.pairwise, "LARGEST_BLOCK", block)
        np.testing.assert_allclose(slopes(s, labels, method="chunked"), wanted, rtol=1e-11)


def test_the_sorted_form_has_second_derivatives():
    s, labels = random_batch(2, 12)
    s, (click, conversion) = tf.constant(s), labels.T
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(s)
        with tf.GradientTape() as inner:
            inner.watch(s)
            value = pwiser(s, click, conversion)
        first = inner.gradient(value, s)
    found = outer.jacobian(first, s, experimental_use_pfor=False).numpy()
    step = 1e-6
    for i in range(12):
        nudge = step * (np.arange(12) == i)
        wanted = (slopes(s + nudge, labels) - slopes(s - nudge, labels)) / (2 * step)
        np.testing.assert_allclose(found[i], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", OPTIONS, ids="-".join)
@pytest.mark.parametrize(
    "kinds", [[], [CONVERTED], [CLICK_ONLY, NO_CLICK], [NO_CLICK], [(0.0, 1.0), CONVERTED]]
)
def test_without_a_pair_value_and_gradients_are_exactly_zero(kinds, form):
    options = dict(zip(("gate", "normalize", "method"), form, strict=True))
    s, labels = np.linspace(0.9, 0.1, 2 * len(kinds)), kinds * 2
    assert loss(s, labels, **options) == 0.0
    np.testing.assert_array_equal(slopes(s, labels, **options), np.zeros(len(s)))


def test_a_missing_group_leaves_the_other_groups_term():
    click, none = [0.5, 0.4], [CLICK_ONLY, CONVERTED]
    assert loss(click, none) == pytest.approx(0.16)
    assert loss(click, [NO_CLICK, CONVERTED], margin_no_click=0.1) == pytest.approx(0.04)


def test_it_is_zero_just_where_every_conversion_leads_by_the_margins():
    labels = [CONVERTED, CONVERTED, CLICK_ONLY, NO_CLICK]
    options = {"margin_click": 0.25, "margin_no_click": 0.5}
    for method in METHODS:
        assert loss([0.75, 1.0, 0.5, 0.25], labels, method=method, **options) == 0.0
        for row, push in ((0, -1e-3), (2, 1e-3), (3, 1e-3)):
            s = np.array([0.75, 1.0, 0.5, 0.25])
            s[row] += push
            assert loss(s, labels, method=method, **options) > 0.0
    apart = [0.6, 0.7, 0.5, 0.1]
    assert loss(apart, labels, margin_click=0.0, margin_no_click=0.0) == 0.0


@pytest.mark.parametrize("form", OPTIONS, ids="-".join)
def test_the_order_of_rows_and_rows_of_weight_zero_do_not_matter(form):
    options = dict(zip(("gate", "normalize", "method"), form, strict=True))
    s, labels = random_batch(3)
    value = loss(s, labels, **options)
    order = np.random.default_rng(4).permutation(60)
    assert loss(s[order], labels[order], **options) == pytest.approx(value, rel=1e-12)
    # Not a number is what a row that is left out may well hold.
    more = np.append(s, [np.nan, 0.0, 1.0])
    kinds = np.vstack([labels, [CONVERTED, CONVERTED, NO_CLICK]])
    w = np.append(np.ones(60), [0.0, 0, 0])
    assert loss(more, kinds, w, **options) == pytest.approx(value, rel=1e-12)
    assert np.isfinite(slopes(more, kinds, w, **options)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 59), st.floats(0.0, 1.0))
def test_it_falls_in_a_conversions_score_rises_in_the_others_and_is_convex(seed, row, push):
    s, labels = random_batch(seed)
    moved = s + push * (np.arange(60) == row)
    change = loss(moved, labels) - loss(s, labels)
    assert (change <= 1e-12) if tuple(labels[row]) == CONVERTED else (change >= -1e-12)
    other, _ = random_batch(seed + 1)
    middle = loss((s + other) / 2, labels)
    assert middle <= (loss(s, labels) + loss(other, labels)) / 2 + 1e-12


def test_a_batch_twice_doubles_the_papers_form_and_not_that_over_pairs():
    s, labels = random_batch(5)
    twice, both = np.tile(s, 2), np.tile(labels, (2, 1))
    assert loss(twice, both) == pytest.approx(2 * loss(s, labels), rel=1e-12)
    pairs = loss(s, labels, normalize="pairs")
    assert loss(twice, both, normalize="pairs") == pytest.approx(pairs, rel=1e-12)


def test_a_row_of_weight_two_is_that_row_twice():
    s, labels = random_batch(6)
    w = np.where(np.arange(60) % 4 == 0, 2.0, 1.0)
    again = np.repeat(np.arange(60), w.astype(int))
    for normalize in NORMALIZATIONS:
        assert loss(s, labels, w, normalize=normalize) == pytest.approx(
            loss(s[again], labels[again], normalize=normalize), rel=1e-12
        )


def test_the_hinge_is_continuous_and_the_printed_gate_jumps_by_twice_the_margin_squared():
    labels, m, step = [NO_CLICK, CONVERTED], 0.25, 2.0**-30
    for edge, gate, jump in ((0.5 - m, "hinge", 0.0), (0.5 + m, "literal", (2 * m) ** 2)):
        before, after = (
            loss([edge + d, 0.5], labels, gate=gate, margin_no_click=m) for d in (-step, step)
        )
        assert after - before == pytest.approx(jump, abs=1e-8)


def test_click_rates_far_below_the_margin_never_open_the_printed_gate():
    rng = np.random.default_rng(7)
    s, labels = 0.04 * rng.random(4000), random_batch(7, 4000)[1]
    assert loss(s, labels, gate="literal") == 0.0 < loss(s, labels)


def test_a_conversion_without_a_click_is_in_no_group():
    s, labels = [0.5, 0.4, 0.2], [NO_CLICK, CONVERTED, CLICK_ONLY]
    for at in (0.0, 0.45, 1.0):
        assert loss([*s, at], [*labels, (0.0, 1.0)]) == loss(s, labels)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_queue_stands_for_further_conversions_and_gets_no_gradient(normalize, method):
    s, labels = random_batch(8, 20)
    options = {"normalize": normalize, "method": method}
    queue, counts = tf.constant([0.4, 0.9, 0.2], tf.float64), tf.constant([1.0, 0.0, 2.0])
    found = loss(s, labels, queue=queue, queue_weights=counts, **options)
    more = np.append(s, [0.4, 0.2, 0.2]), np.vstack([labels, [CONVERTED] * 3])
    assert found == pytest.approx(loss(*more, **options), rel=1e-12)
    kinds = np.array([CLICK_ONLY, NO_CLICK] * 10)
    with tf.GradientTape() as tape:
        scores = tf.constant(s)
        tape.watch([scores, queue])
        value = pwiser(scores, *kinds.T, queue=queue, **options)
    lowered, of_queue = tape.gradient(value, [scores, queue])
    assert of_queue is None and float(value) > 0 and (lowered.numpy() >= 0).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gate": "soft"}, "gate='soft'"),
        ({"normalize": "n"}, "normalize='n'"),
        ({"method": "naive"}, "method='naive'"),
        ({"margin_click": -0.1}, "margin_click=-0.1 must"),
    ],
)
def test_unknown_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        loss([0.5, 0.4], [NO_CLICK, CONVERTED], **options)


def test_a_column_against_a_row_of_scores_is_refused():
    with pytest.raises(ValueError, match="vectors of one length"):
        pwiser(tf.ones([3, 1]), tf.ones([3]), tf.ones([3]))


def _measure(method: str, answers) -> None:
    """Seconds of one call with gradients, and bytes that it needs beyond TensorFlow's own."""
    size, conversions = 65_536, 20_000
    rng = np.random.default_rng(9)
    scores = tf.constant(rng.random(size), tf.float32)
    click = tf.cast(tf.range(size) < 40_000, tf.float32)
    conversion = tf.cast(tf.range(size) < conversions, tf.float32)

    @tf.function
    def step(scores, click, conversion):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = pwiser(scores, click, conversion, method=method)
        return value, tape.gradient(value, scores)

    step(scores[:8], click[:8], conversion[:8])
    before = _peak()
    start = time.perf_counter()
    value, gradient = step(scores, click, conversion)
    value, gradient = float(value), gradient.numpy()
    seconds = time.perf_counter() - start
    peak = _peak()
    answers.put((seconds, peak - before, peak, value, gradient))


def _peak() -> int:
    """Most bytes that this process has held.

    Not `ru_maxrss`: that of a process which another has started begins at what the other held.
    """
    with open("/proc/self/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _measured(method):
    # A process of its own: the peak of this one has its former tests in it.
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_measure, args=(method, answers))
    process.start()
    found = answers.get(timeout=120)
    process.join()
    return found


def test_twenty_thousand_conversions_among_65536_rows_take_neither_2_seconds_nor_a_gigabyte():
    seconds, more, peak, value, _ = _measured("sorted")
    assert seconds < 2 and peak < 1e9 and value > 0
    # Every pair of 4 bytes would be 3.6 GB; here are some dozens of vectors.
    assert more < 200e6


@pytest.mark.slow
def test_blocks_keep_within_a_gigabyte_too_and_agree_at_that_size():
    _, _, _, value, gradient = _measured("sorted")
    _, _, peak, again, other = _measured("chunked")
    assert peak < 1e9
    assert again == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(other, gradient, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_place_of_the_queue_is_left_out_whatever_it_holds(method):
    labels = tf.constant([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    scores, counts = tf.constant([0.5, 0.4, 0.1]), tf.constant([0.0, 1.0])
    values = [
        pwiser(scores, *tf.transpose(labels), queue=queue, queue_weights=counts, method=method)
        for queue in (tf.constant([float("nan"), 0.2]), tf.constant([0.9, 0.2]))
    ]
    assert float(values[0]) == pytest.approx(0.4**2 + 0.6**2 + 0.2**2) == float(values[1])
