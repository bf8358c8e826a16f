"""Tasks in processes of their own do what they do alone, under one bar, and end together when one fails."""

import multiprocessing
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from experiments import side_by_side
from slhf.errors import JudgeError, TrainingError
from tests.experiments.side_tasks import endless, fail, killed, trained

SEEDS = (0, 1)


def test_tasks_end_as_they_do_one_after_the_other_and_a_bar_tells_how_far_they_are(tmp_path, monkeypatch, capsys):
    alone, together = tmp_path / "alone", tmp_path / "together"
    for out in (alone, together):
        out.mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for seed in SEEDS:
        trained(seed, alone)
    torch.set_num_threads(before)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    said = []

    def done():
        said.append(len(list(together.glob("*-*"))))
        return said[-1]

    side_by_side.run([partial(trained, seed, together) for seed in SEEDS], 2, "training", "steps", 40, done)
    for seed in SEEDS:
        assert (together / f"{seed}.threads").read_text() == "2"  # its share of the four
        ours, theirs = (torch.load(out / f"{seed}.pt") for out in (together, alone))
        assert all(map(torch.equal, ours, theirs))
    assert said == sorted(said)
    assert (said[0], said[-1]) == (0, 40)
    *_, last = capsys.readouterr().err.strip().split("\r")
    assert last.startswith("training: 100%")
    assert "40/40 steps" in last


def test_the_first_error_ends_the_others_and_is_raised(tmp_path):
    started = tmp_path / "started"
    tasks = [partial(endless, started), partial(fail, started)]
    with pytest.raises(JudgeError, match="The judge is gone"):
        side_by_side.run(tasks, 2, "", "", 2, lambda: 0)
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_one_line():
    with pytest.raises(TrainingError, match="was killed"):
        side_by_side.run([killed], 1, "", "", 1, lambda: 0)
    assert not multiprocessing.active_children()


def test_ctrl_c_ends_them(tmp_path):
    started = tmp_path / "started"

    def done():
        if started.exists():
            raise KeyboardInterrupt
        return 0

    with pytest.raises(KeyboardInterrupt):
        side_by_side.run([partial(endless, started)], 1, "", "", 1, done)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("models", "cores", "rooms", "environment", "gpu", "expected"),
    [
        (["embedded"] * 3, 8, 100, {}, False, 3),
        (["embedded"] * 5, 2, 100, {}, False, 2),
        (["embedded"] * 5, 8, 4.5, {}, False, 4),
        (["embedded"] * 5, 8, 0.5, {}, False, 1),
        ([], 8, 100, {}, False, 1),
        (["embedded", "owner/model"], 8, 100, {}, False, 1),
        (["embedded"] * 5, 8, 100, {"WORLD_SIZE": "1"}, False, 5),
        (["embedded"] * 5, 8, 100, {"WORLD_SIZE": "2"}, False, 1),
        (["embedded"] * 5, 8, 100, {}, True, 1),
    ],
)
def test_as_many_at_a_time_as_cores_and_memory_allow(monkeypatch, models, cores, rooms, environment, gpu, expected):
    """``rooms``: for how many tasks there is memory."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    memory = SimpleNamespace(available=rooms * side_by_side.BYTES_EACH)
    monkeypatch.setattr(side_by_side.psutil, "virtual_memory", lambda: memory)
    assert side_by_side.at_once(models) == expected
