"""What a process does with freed memory, and which settings do not name a run."""

import ctypes
from dataclasses import replace

import pytest

from experiments import process
from experiments.config import LanguageModelSweep
from experiments.language_models import config_of
from llm.config import BOUNDS, TrainConfig
from llm.judges.config import RewardModelJudgeConfig
from slhf.algorithms import SPO

OTHERS = {
    "tokens_per_micro_batch": 512,
    "gradient_checkpointing": True,
    "checkpoint_every": 3,
    "keep_checkpoints": 4,
    "keep_every": 2,
    "timeout_minutes": 5.0,
    "trackers": ("tensorboard",),
}


@pytest.mark.parametrize(("gpu", "kept"), [(False, 2), (True, 0)])
def test_freed_memory_is_kept_where_the_processor_computes_alone(monkeypatch, gpu, kept):
    calls = []

    class Libc:
        def mallopt(self, *option):
            calls.append(option)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Libc())
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(process.torch.cuda, "is_available", lambda: gpu)
    process.keep_memory()
    assert len(calls) == kept


def test_settings_that_bound_memory_or_time_do_not_name_a_run():
    """A run that ran out of memory goes on with smaller micro-batches; one that learns otherwise is another run."""
    sweep = LanguageModelSweep("x", ())
    plain = config_of(SPO(), sweep)
    assert set(OTHERS) == set(BOUNDS)
    assert config_of(SPO(), replace(sweep, train=TrainConfig(**OTHERS))) == plain
    assert config_of(SPO(), replace(sweep, train=TrainConfig(steps=7))) != plain
    judged, other = (
        config_of(SPO(), replace(sweep, judge=RewardModelJudgeConfig("m", tokens_per_batch=n))) for n in (100, 200)
    )
    assert judged == other
