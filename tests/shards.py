"""Slow tests in shards, so that each run of continuous integration takes a part of them.

`--shard 2/7` runs the quick tests and, of the slow ones, those of the second of seven shards. A
file's slow tests stay together, for they share what its fixtures made. Which shard a file is in
follows from the seconds that its slow tests took when `make test-slow RECORD=1` last ran, so that
all shards take about as long; it is the same on every machine.

Files with slow tests come first, the longest before the others: workers then end together.
"""

import json
import resource
from collections import Counter
from pathlib import Path

import pytest

SECONDS = Path(__file__).parent / "slow_seconds.json"
# Of a test that was never recorded, this part of its time-out is expected.
PART = 0.1
counted = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption("--shard", type=shard_of, metavar="K/N", help="run the K-th of N shards")
    parser.addoption("--record-seconds", action="store_true", help=f"write {SECONDS.name} anew")


def shard_of(text):
    """Returns `(k, n)` of a text such as `2/7`."""
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise pytest.UsageError(f"--shard {text}: give K/N with K from 1 to N, such as 2/7")
    return int(k), int(n)


def recorded():
    """Returns the processor seconds of the slow tests of each file."""
    return json.loads(SECONDS.read_text()) if SECONDS.exists() else {}


def shards(seconds, n):
    """Deals files out to `n` shards, each next one to the shard that has least to do.

    Args:
        seconds: What each file is expected to take.
        n: Shards.

    Returns:
        A list of `n` lists of files.
    """
    dealt, loads = [[] for _ in range(n)], [0.0] * n
    for file in longest_first(seconds):
        least = loads.index(min(loads))
        dealt[least].append(file)
        loads[least] += seconds[file]
    return dealt


def longest_first(seconds):
    return sorted(seconds, key=lambda file: (-seconds[file], file))


def expected(config, items):
    """Returns the seconds that the slow tests among `items` are expected to take, by file."""
    known, seconds = recorded(), {}
    for item in filter(is_slow, items):
        mark = item.get_closest_marker("timeout")
        timeout = mark.args[0] if mark else float(config.getini("timeout") or 600)
        seconds[file_of(item)] = seconds.get(file_of(item), 0.0) + PART * timeout
    return {file: known.get(file, guess) for file, guess in seconds.items()}


def file_of(item):
    return item.location[0]


def is_slow(item):
    return item.get_closest_marker("slow") is not None


# Outermost, so that it sees all slow tests before `-m` and `-k` leave some out: those do not change
# which shard a file is in.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    seconds = expected(config, items)
    yield
    if config.option.shard:
        k, n = config.option.shard
        chosen = set(shards(seconds, n)[k - 1])
        out = [item for item in items if is_slow(item) and file_of(item) not in chosen]
        items[:] = [item for item in items if not is_slow(item) or file_of(item) in chosen]
        config.hook.pytest_deselected(items=out)
    left = {file_of(item) for item in items if is_slow(item)}
    first = [file for file in longest_first(seconds) if file in left]
    order = dict.fromkeys([*first, *(file_of(item) for item in items)])
    place = {file: number for number, file in enumerate(order)}
    items.sort(key=lambda item: place[file_of(item)])


def pytest_report_header(config):
    if not config.option.shard:
        return None
    return "slow tests: shard {} of {}".format(*config.option.shard)


def used():
    """Returns the processor seconds of this process and of those it waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    now = used()
    if is_slow(item):
        report.user_properties.append(("processor", now - item.config.stash.get(counted, now)))
    item.config.stash[counted] = now
    return report


def pytest_configure(config):
    # Under xdist the workers run tests, and this process hears of them all.
    if config.option.record_seconds and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


class Recorder:
    """Writes the processor seconds of the slow tests that ran, by file."""

    def __init__(self):
        self.seconds = Counter()

    def pytest_runtest_logreport(self, report):
        spent = dict(report.user_properties).get("processor")
        if spent is not None:
            self.seconds[report.location[0]] += spent

    def pytest_sessionfinish(self):
        kept = {file: seconds for file, seconds in recorded().items() if Path(file).exists()}
        kept.update({file: round(seconds, 1) for file, seconds in self.seconds.items()})
        SECONDS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
