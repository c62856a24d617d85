"""Changes lines of which it is known what they guard, and asks the tests to notice.

    python tools/mutants.py                 all of them
    python tools/mutants.py seal retention  those whose name holds one of the words

Each mutant is one line that is changed in a copy of the project, where the tests that are named
with it must fail. The run fails where fewer than 95 of 100 are caught.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.95


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A line and what it becomes.

    Args:
        name: What the line guards.
        file: Where it stands.
        text: A part of it that stands in the file exactly once.
        replacement: What that part becomes.
        tests: The tests that must notice, as pytest names them.
    """

    name: str
    file: str
    text: str
    replacement: str
    tests: str


DAMAGE, DURABLE = "tests/training/test_damage.py", "tests/test_durable.py"
PREFLIGHT = "tests/pipeline/test_preflight.py"
MUTANTS = (
    Mutant(
        "weights of private blocks under surgery",
        "tfmtl/balancing/task_gradients.py",
        "tf.where(shared[:, tf.newaxis], weights, tf.ones_like(weights))",
        "tf.where(shared[:, tf.newaxis], weights, weights)",
        "tests/balancing/test_private_blocks.py",
    ),
    Mutant(
        "shared blocks alone in the gram matrix",
        "tfmtl/balancing/task_gradients.py",
        "if not all(part.blocks):",
        "if False:",
        "tests/balancing/test_private_blocks.py",
    ),
    Mutant(
        "the neutral click loss of loss weights",
        "tfmtl/tuning/loss_weights.py",
        '"allowed": metrics[ne] <= most_ne',
        '"allowed": metrics[ne] >= most_ne',
        "tests/tuning/test_neutral_clicks.py",
    ),
    Mutant(
        "trials of two experiments in one directory",
        "tfmtl/tuning/loss_weights.py",
        "os.path.join(directory, key.hexdigest()[:16])",
        "directory",
        "tests/tuning/test_neutral_clicks.py",
    ),
    Mutant(
        "resume under other settings of meta-training",
        "tfmtl/training/checkpoints.py",
        'for part in ("model", "training", "meta", "search"):',
        'for part in ("model", "training", "search"):',
        "tests/meta/test_second_stage.py",
    ),
    Mutant(
        "the balancer in the second stage",
        "tfmtl/meta/train.py",
        "    trained.append(model.balancer)",
        "    pass",
        "tests/meta/test_second_stage.py",
    ),
    Mutant(
        "the attention in the second stage",
        "tfmtl/meta/train.py",
        'if "attention" in scope:',
        "if True:",
        "tests/meta/test_second_stage.py",
    ),
    Mutant(
        "the rate of the second stage",
        "tfmtl/meta/train.py",
        "learning_rate=meta.finetune_rate,",
        "learning_rate=settings.learning_rate,",
        "tests/meta/test_second_stage.py",
    ),
    Mutant(
        "the order of rows in the second stage",
        "tfmtl/meta/train.py",
        "seed=settings.seed + 1,",
        "seed=settings.seed,",
        "tests/meta/test_second_stage.py",
    ),
    Mutant(
        "the tables' rate in a part's fingerprint",
        "tfmtl/mtms/slot_parts.py",
        '                "embedding_learning_rate",\n',
        "",
        "tests/mtms/test_fingerprints.py",
    ),
    Mutant(
        "weight decay in a part's fingerprint",
        "tfmtl/mtms/slot_parts.py",
        '"tower_batch_norm", "l2")',
        '"tower_batch_norm")',
        "tests/mtms/test_fingerprints.py",
    ),
    Mutant(
        "the schema in a day's key",
        "pipeline/slots.py",
        "read_as, schema, code_hash(",
        "read_as, code_hash(",
        "tests/pipeline/test_day_keys.py",
    ),
    Mutant(
        "pseudo-labelled rows in cold starts",
        "tfmtl/few_shot/cold_start.py",
        "weights = np.where(rows.tensors[PSEUDO].numpy()[query] > 0, 0.0, weights)",
        "pass",
        "tests/few_shot/test_pseudo_labels.py",
    ),
    Mutant(
        "the sign of a fall of recall",
        "components/consistency_verdict.py",
        "Interval(-difference.value, -difference.high, -difference.low)",
        "Interval(difference.value, difference.low, difference.high)",
        "tests/components/test_consistency_verdict.py",
    ),
    Mutant(
        "a checkpoint is checked before it is read",
        "tfmtl/training/checkpoints.py",
        "        durable.check_whole(path)\n",
        "",
        f"{DAMAGE}::test_a_damaged_checkpoint_is_passed_over_in_a_line",
    ),
    Mutant(
        "two checkpoints are kept",
        "tfmtl/training/checkpoints.py",
        "KEPT = 2",
        "KEPT = 1",
        f"{DAMAGE}::test_a_damaged_checkpoint_is_passed_over_in_a_line",
    ),
    Mutant(
        "damaged checkpoints go at the next one",
        "tfmtl/training/checkpoints.py",
        "self._damaged.append(path)",
        "pass",
        f"{DAMAGE}::test_a_damaged_checkpoint_is_passed_over_in_a_line",
    ),
    Mutant(
        "content counts in a seal",
        "tfmtl/durable.py",
        'if "crc32" in mark and _mark(inner) != mark:',
        "if False:",
        DURABLE,
    ),
    Mutant(
        "files are synced before they are renamed",
        "tfmtl/durable.py",
        "            os.fsync(file.fileno())\n",
        "",
        DURABLE,
    ),
    Mutant(
        "folders are synced before they are renamed",
        "tfmtl/durable.py",
        "        sync(building)\n",
        "",
        DURABLE,
    ),
    Mutant(
        "damaged parts of a slot are trained anew",
        "tfmtl/mtms/slot_parts.py",
        "        finished = _finished(path)",
        "        finished = read_about(path)",
        f"{DAMAGE}::test_a_damaged_part_of_a_slot_is_said_and_that_part_alone_is_trained_anew",
    ),
    Mutant(
        "versions are renamed when they are whole",
        "components/pusher.py",
        "destination.filesystem.base_directory = building",
        "pass",
        "tests/pipeline/test_pusher.py",
    ),
    Mutant(
        "whole versions stay in the sweep",
        "components/pusher.py",
        "and not is_whole(path)",
        "",
        "tests/pipeline/test_pusher.py",
    ),
    Mutant(
        "an experiment's name is a plain one",
        "tfmtl/declare/experiment.py",
        '        check_plain_name("name", self.name)\n',
        "",
        "tests/declare/test_names.py",
    ),
    Mutant(
        "names of files do not begin with a dot",
        "tfmtl/plain.py",
        'if quoted.startswith("."):',
        "if False:",
        "tests/declare/test_names.py",
    ),
    Mutant(
        "a configuration that ends the program",
        "pipeline/config.py",
        "    except (Exception, SystemExit) as error:\n"
        '        raise SpecError(f"{path}{_line(error, path)}',
        '    except Exception as error:\n        raise SpecError(f"{path}{_line(error, path)}',
        PREFLIGHT,
    ),
    Mutant(
        "artifacts without their metadata",
        "pipeline/preflight.py",
        "if not _executions(path) and",
        "if False and",
        PREFLIGHT,
    ),
)


def main(words: Sequence[str] = ()) -> int:
    """Runs all mutants, or those whose names hold a word; returns 0 where enough are caught."""
    mutants = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    caught = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        ignored = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "output")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for mutant in mutants:
            noticed = is_caught(mutant, copy)
            caught += noticed
            print(f"{'caught' if noticed else 'MISSED'}  {mutant.name}", flush=True)
    print(f"{caught} of {len(mutants)} mutants caught; {LEAST:.0%} are wanted")
    return 0 if mutants and caught >= LEAST * len(mutants) else 1


def is_caught(mutant: Mutant, project: Path) -> bool:
    """Whether the tests fail in a copy of the project with the mutant in it; the copy is as before.

    Raises:
        ValueError: The text does not stand in the file exactly once.
        RuntimeError: Tests could not be run at all.
    """
    path = project / mutant.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.text) != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.text!r} stands {source.count(mutant.text)} times in "
            f"{mutant.file}; once would be right."
        )
    path.write_text(source.replace(mutant.text, mutant.replacement), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", mutant.tests],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(source, encoding="utf-8")
    # 1: a test failed. All else is no answer: nothing collected, a wrong name, an interrupt.
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.name}: {mutant.tests} did not run.\n{done.stdout[-2000:]}")
    return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
