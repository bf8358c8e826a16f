"""Kill a training process anywhere, start it again: the run is, to the bit, the one that nobody killed."""

import multiprocessing
import random
import signal
import time

import pytest
from safetensors.torch import load_file, save_file

from llm import checkpoint, finite
from llm.config import ModelConfig, TrainConfig
from llm.judges.attributes import AttributeJudge
from llm.judges.matrix import MatrixJudge
from llm.policy import LoRA
from llm.train import train
from slhf.algorithms import EGPO, StackelbergGDA
from slhf.errors import JudgeError, RunError
from slhf.runs import Run
from tests.llm.killing import GAME, LABELS, PLACES, build_model, child

pytestmark = pytest.mark.numeric

CONFIG = TrainConfig(
    steps=60,
    batch_size=2,
    schedule="cosine",
    warmup=0.1,
    tokens_per_micro_batch=150,
    checkpoint_every=3,  # EGPO takes two steps an update: every other checkpoint falls within one
    keep_checkpoints=2,
    keep_every=30,
)
SPEC = StackelbergGDA(0.01, follower_samples=2)


@pytest.fixture(scope="module")
def processes():
    """Forked from a server that imported everything once; each of them is a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.llm.killing"])
    return context


def start(processes, *arguments):
    process = processes.Process(target=child, args=arguments, daemon=True)
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
    named = [(place, rng.randint(1, 2)) for place in PLACES]
    writes = [(rng.randint(1, 40), 0) for _ in range(6)]
    timed = [(None, rng.uniform(0, 0.5)) for _ in range(6)]
    ways = named + writes + timed
    rng.shuffle(ways)
    return ways


@pytest.mark.parametrize(("spec", "sharing"), [(SPEC, "two"), (EGPO(0.01), "one")], ids=["stackelberg", "egpo"])
def test_a_run_killed_at_twenty_six_moments_is_the_run_that_was_not(tmp_path, processes, spec, sharing):
    model = build_model(tmp_path / "model", sharing=sharing)
    assert end(start(processes, tmp_path / "whole", model, CONFIG, spec, None, 0)) == 0
    root = tmp_path / "killed"
    for place, n in moments(random.Random(len(sharing))):
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
    assert kept == [f"checkpoint-{step:06d}" for step in (30, 57, 60)]


def test_two_processes_do_not_train_in_one_directory(tmp_path, processes):
    model = build_model(tmp_path / "model")
    first = start(processes, tmp_path / "runs", model, TrainConfig(steps=10_000, batch_size=4), SPEC, None, 0)
    run = Run.open(tmp_path / "runs", "x", {})
    while first.is_alive() and not run.metrics():
        time.sleep(0.05)
    with pytest.raises(RunError, match=f"in use by process {first.pid} on .* goes on from the last checkpoint"):
        train(SPEC, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, TrainConfig(steps=1))
    first.kill()
    assert end(first) == -signal.SIGKILL
    with run.lock():  # the system has freed it
        pass


def test_only_the_newest_checkpoints_and_every_so_manieth_stay(tmp_path):
    model, run = build_model(tmp_path / "model"), Run.open(tmp_path, "x", {})
    config = TrainConfig(steps=11, batch_size=2, checkpoint_every=2, keep_checkpoints=1, keep_every=4)
    (run.path / ".checkpoint-000099.removed" / "adapter").mkdir(parents=True)  # of a process that was killed
    train(StackelbergGDA(0.01), MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, config)
    assert [checkpoint.steps_behind(path) for path in checkpoint.find_all(run.path)] == [4, 8, 11]
    assert checkpoint.latest(run.path) == run.path / "checkpoint-000011"
    assert not list(run.path.glob(".checkpoint-*"))


def test_what_is_not_a_whole_checkpoint_is_not_found(tmp_path):
    for name in (".checkpoint-000009.tmp", ".checkpoint-000003.removed", "checkpoint-000007", "checkpoint-1000000"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    assert [path.name for path in checkpoint.find_all(tmp_path)] == ["checkpoint-000007", "checkpoint-1000000"]


def test_contradictions_are_refused(tmp_path):
    model, run = build_model(tmp_path / "model"), Run.open(tmp_path, "x", {})
    spec, judge, config = StackelbergGDA(0.01), MatrixJudge(GAME, LABELS), TrainConfig(steps=2, batch_size=2)
    train(spec, judge, [finite.PROMPT], run, model, config)
    more = TrainConfig(steps=4, batch_size=2)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    for text in (lines[0], lines[0] * 2 + lines[1], ""):
        (run.path / "metrics.jsonl").write_text(text)
        with pytest.raises(RunError, match="does not hold steps 0 to 1 once each"):
            train(spec, judge, [finite.PROMPT], run, model, more)
    (run.path / "metrics.jsonl").write_text("".join(lines))
    moments_file = run.path / "checkpoint-000002" / "optimizer.safetensors"
    saved = load_file(moments_file)
    save_file({f"another.{name}": value for name, value in saved.items()}, moments_file)
    with pytest.raises(RunError, match="optimiser state for another"):
        train(spec, judge, [finite.PROMPT], run, model, more)
    (run.path / "checkpoint-000002").rename(run.path / "checkpoint-000001")
    with pytest.raises(RunError, match="after 2 steps; give it its own name back"):
        train(spec, judge, [finite.PROMPT], run, model, more)


class Interrupted(AttributeJudge):
    """Fails at its second question."""

    asked = 0

    def prefer(self, prompts, a, b):
        self.asked += 1
        if self.asked == 2:
            raise JudgeError("gone")
        return super().prefer(prompts, a, b)


def test_the_embedded_judge_says_the_same_after_an_interruption(tmp_path):
    """Its fluency, in bfloat16, depends on which texts are read together: a step's are, whatever came before it."""
    model = ModelConfig(max_new_tokens=6, lora=LoRA(rank=2, layers=1, modules=("o_proj",)))
    config, prompts = TrainConfig(steps=3, batch_size=2, checkpoint_every=1), ["Hi.", "Why?"]
    whole, broken = Run.open(tmp_path, "whole", {}), Run.open(tmp_path, "broken", {})
    train(StackelbergGDA(0.01), AttributeJudge(), prompts, whole, model, config)
    with pytest.raises(JudgeError, match="gone"):
        train(StackelbergGDA(0.01), Interrupted(), prompts, broken, model, config)
    train(StackelbergGDA(0.01), AttributeJudge(), prompts, broken, model, config)
    assert [without_time(row) for row in broken.metrics()] == [without_time(row) for row in whole.metrics()]
    for name in ("adapter/adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (checkpoint.latest(run.path) / name for run in (whole, broken))
        assert ours.read_bytes() == theirs.read_bytes()
