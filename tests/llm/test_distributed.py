"""Two processes do what one does with the same batch, and one that dies does not leave the other waiting."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from llm import checkpoint, finite
from llm.distributed import Processes, SlicedGenerator
from slhf.errors import ConfigError
from tests.llm.distributed_run import CASES, LABELS, RATE, run_case

pytestmark = pytest.mark.numeric

TIMED = ("second", "memory")


def launch(*arguments):
    """The script on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, "-m", "tests.llm.distributed_run", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed")
    finite.build_model(path / "model", LABELS, seed=0)
    return path


@pytest.fixture(scope="module")
def launched(out):
    done = launch(",".join(CASES), out)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(launched, out, case):
    run_case(case, out)
    alone, _ = run_case(case, out, steps=6)
    together = type(alone)(out / f"{case} on 2")
    rows, expected = together.metrics(), alone.metrics()
    assert [row["step"] for row in rows] == list(range(6))
    for row, want in zip(rows, expected, strict=True):
        assert row.keys() == want.keys()
        for key, value in want.items():
            if not any(word in key for word in TIMED):
                assert row[key] == pytest.approx(value, abs=1e-4), (row["step"], key)
    assert together.metrics("samples.jsonl") == alone.metrics("samples.jsonl")
    ours, theirs = (
        load_file(next(checkpoint.latest(run.path).glob("adapter/*model*.safetensors"))) for run in (together, alone)
    )
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        if name.endswith("k_proj.bias"):
            # It shifts all scores of a query alike, so its gradient is 0; what is computed is rounding, of which Adam
            # makes steps of the learning rate's size, in any direction.
            assert (ours[name] - weight).abs().max() <= 2 * 6 * RATE
            continue
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    moments = [load_file(checkpoint.latest(run.path) / "optimizer.safetensors") for run in (together, alone)]
    assert moments[0].keys() == moments[1].keys()
    assert all(moments[0][name].shape == value.shape for name, value in moments[1].items())


@pytest.mark.parametrize(("how", "message"), [("killed", "Signal 9 (SIGKILL)"), ("stuck", "Timed out")])
def test_a_process_that_dies_or_hangs_ends_the_run(out, how, message):
    done = launch("one", out, how)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list((out / f"one on 2{how}").glob("checkpoint-000004"))


def test_parts_cover_the_batch():
    for total, count in ((8, 2), (5, 2), (7, 3)):
        parts = [Processes(rank, count).slice(total) for rank in range(count)]
        assert [i for low, high in parts for i in range(low, high)] == list(range(total))
    with pytest.raises(ConfigError, match="2 processes"):
        Processes(0, 2).slice(1)


class Recorder:
    """Notes what is asked of it."""

    def __init__(self):
        self.asked = []

    def open(self, prompts, mixture=None):
        self.rows = len(prompts)
        return self

    def extend(self, tokens):
        pass

    def repeat(self, times):
        self.rows *= times

    def sample(self, max_new_tokens, seed, role="leader", first_row=0):
        self.asked.append((first_row, self.rows))
        return []


def test_rows_are_addressed_in_the_whole_batch():
    """Prompts 3 and 4 of 5, two answers each, three replies to each of those."""
    recorder = Recorder()
    generator = SlicedGenerator(recorder, 3, 5)
    session = generator.open([[0]] * 2)
    session.repeat(2)
    session.sample(1, 0)
    session.repeat(3)
    session.sample(1, 0)
    again = generator.open([[0]] * 4)  # a Follower that cannot continue the Leader's session
    again.repeat(3)
    again.sample(1, 0)
    assert recorder.asked == [(6, 4), (18, 12), (18, 12)]
