"""Kill a training process anywhere, start it again: the run is, to the bit, the one that nobody killed."""

import multiprocessing
import random
import signal
import time

import pytest

from llm.config import TrainConfig
from slhf.algorithms import NashMD, StackelbergGDA
from slhf.runs import Run
from tests.llm.killing import PLACES, build_model, child

CONFIG = TrainConfig(
    steps=60,
    batch_size=4,
    schedule="cosine",
    warmup=0.1,
    tokens_per_micro_batch=200,
    checkpoint_every=2,
    keep_checkpoints=2,
    keep_every=20,
)
SPEC = StackelbergGDA(0.01, leader_samples=2, follower_samples=2)


@pytest.fixture(scope="module")
def processes():
    """Forked from a server that imported everything once; each of them is a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.llm.killing"])
    return context


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


def start(processes, *arguments):
    process = processes.Process(target=child, args=arguments)
    process.start()
    return process


def end(process):
    process.join(60)
    return process.exitcode


def without_time(row):
    return {key: value for key, value in row.items() if "second" not in key and "memory" not in key}


def state(root):
    """All that a run leaves behind, without times: logs, and every file of every checkpoint as bytes."""
    (path,) = root.glob("x-*")
    run = Run(path)
    files = {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.suffix in (".safetensors", ".json") and file.name != "manifest.json"
    }
    hidden = [file.name for file in path.rglob(".*")]
    return {
        "metrics": [without_time(row) for row in run.metrics()],
        "samples": run.metrics("samples.jsonl"),
        "files": files,
        "hidden": hidden,
    }


def moments(rng):
    """A shuffled list of ways to die: every named place, any write to the disk, any moment."""
    named = [(place, rng.randint(1, 3)) for place in PLACES]
    writes = [(rng.randint(1, 60), 0) for _ in range(6)]
    timed = [(None, rng.uniform(0, 0.5)) for _ in range(6)]
    ways = named + writes + timed
    rng.shuffle(ways)
    return ways


@pytest.mark.parametrize(
    ("spec", "seed"), [(SPEC, 0), (NashMD(0.01, samples=2), 1)], ids=lambda x: getattr(x, "name", x)
)
def test_a_run_killed_at_twenty_six_moments_is_the_run_that_was_not(tmp_path, processes, model, spec, seed):
    assert end(start(processes, tmp_path / "whole", model, CONFIG, spec, None, 0)) == 0
    root = tmp_path / "killed"
    for place, n in moments(random.Random(seed)):
        process = start(processes, root, model, CONFIG, spec, place, n)
        if place is None:
            time.sleep(n)
            process.kill()
        assert end(process) == -signal.SIGKILL, f"survived {place} ({n})"
    assert end(start(processes, root, model, CONFIG, spec, None, 0)) == 0
    whole, killed = state(tmp_path / "whole"), state(root)
    assert [row["step"] for row in killed["metrics"]] == list(range(CONFIG.steps))
    for part in whole:
        assert killed[part] == whole[part], part
    kept = sorted({name.split("/")[0] for name in killed["files"]})
    assert kept == [f"checkpoint-{step:06d}" for step in (20, 40, 58, 60)]
