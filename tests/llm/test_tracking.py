"""Trackers: what is asked for is there, once per step even after a kill, and nothing secret is."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm import checkpoint, finite, tracking
from llm.config import TrainConfig
from llm.judges.matrix import MatrixJudge
from llm.train import train
from slhf.algorithms import StackelbergGDA
from slhf.errors import JudgeError, MissingResource
from slhf.runs import Run
from tests.llm.killing import GAME, LABELS, build_model
from tests.llm.test_train import Failing

SPEC = StackelbergGDA(0.01)
CONFIG = TrainConfig(steps=6, batch_size=4, checkpoint_every=4, trackers=("tensorboard",))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


def test_tensorboard_holds_each_step_once_after_an_interruption(tmp_path, model):
    run = Run.open(tmp_path, "x", {})
    with pytest.raises(JudgeError):
        train(SPEC, Failing(3), [finite.PROMPT], run, model, CONFIG)
    assert checkpoint.latest(run.path) is None  # steps 0 to 2 are logged and will be again
    train(SPEC, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, CONFIG)
    events = EventAccumulator(str(run.path / tracking.PROJECT)).Reload()
    assert set(events.Tags()["scalars"]) == set(run.metrics()[0]) - {"step"}
    for key in ("loss", "leader_entropy", "sampler_gap_max"):
        logged = events.Scalars(key)
        assert [event.step for event in logged] == list(range(6))
        assert [event.value for event in logged] == pytest.approx([row[key] for row in run.metrics()], rel=1e-6)


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    run = Run.open(tmp_path, "x", {})
    config = TrainConfig(trackers=("tensorboard", "wandb"))
    with pytest.raises(MissingResource, match="wandb is not installed"):
        train(SPEC, MatrixJudge(GAME, LABELS), ["x"], run, config=config)
    assert not (run.path / "metrics.jsonl").exists()


def test_no_key_of_the_environment_reaches_the_run_directory(tmp_path, model, monkeypatch):
    keys = {"WANDB_API_KEY": "wk-5ecre7-1", "HF_TOKEN": "hf_5ecre7-2", "OPENAI_API_KEY": "sk-5ecre7-3"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    run = Run.open(tmp_path, "x", {"train": {"steps": 6}})
    train(SPEC, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, CONFIG)
    run.finish({"steps": 6})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in files)
    assert run.path / "manifest.json" in files
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in keys.items() if value.encode() in content or name.encode() in content]


def test_settings_are_flat():
    flat = tracking.flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": True})
    assert flat == {"a.b": 1, "a.c.d": "None", "e": "[1, 2]", "f": True}
    assert json.dumps(flat)
