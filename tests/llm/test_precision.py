"""dtype: auto, by hardware; settled once per run and kept when the run goes on elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm import finite, precision
from llm.config import ModelConfig, TrainConfig, load_policy
from llm.judges.config import AttributeJudgeConfig, ServerJudgeConfig
from llm.judges.matrix import MatrixJudge
from llm.policy import LoRA
from llm.train import train
from slhf.algorithms import StackelbergGDA
from slhf.runs import Run


@pytest.fixture
def units(monkeypatch):
    """Set whether the processor has bfloat16 units."""

    def there(has: bool) -> None:
        monkeypatch.setattr(precision.hardware, "has_bfloat16_units", lambda: has)

    return there


@pytest.mark.parametrize(("has", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_hardware_and_a_given_format_does_not(units, has, chosen):
    units(has)
    assert precision.resolve("auto", "cpu") == chosen
    assert precision.resolve("bfloat16", "cpu") == "bfloat16"
    assert precision.with_dtype(AttributeJudgeConfig(), "cpu").dtype == chosen
    assert precision.with_dtype(ModelConfig(), "cpu", trained=True).dtype == "float32"
    server = ServerJudgeConfig("http://localhost:1/v1", "m")
    assert precision.with_dtype(server, "cpu") == server  # has no format of its own


def test_one_line_says_what_was_chosen_and_why(units):
    units(False)
    assert precision.explain(ModelConfig(), "Model", "cpu") == (
        "Model in float32: this processor has no bfloat16 units (dtype: auto)"
    )
    units(True)
    assert "Judge in bfloat16: this processor has bfloat16" in precision.explain(AttributeJudgeConfig(), "Judge", "cpu")
    assert precision.explain(ModelConfig(dtype="float32"), "Model", "cpu") == ""


def test_a_run_goes_on_in_the_format_in_which_it_began(units, tmp_path, capsys):
    run = Run.open(tmp_path, "run", {"dtype": "auto"})
    units(False)
    first = precision.settled(ModelConfig(), "model", run.manifest, "cpu")
    assert (first.dtype, capsys.readouterr().err) == ("float32", "")
    units(True)
    again = precision.settled(ModelConfig(), "model", run.manifest, "cpu")
    said = capsys.readouterr().err
    assert again.dtype == "float32"
    assert "float32 where this began" in said
    assert "would be bfloat16 here" in said
    assert Run.open(tmp_path, "run", {"dtype": "auto"}).path == run.path  # the choice is no part of the name


def test_training_writes_and_keeps_the_format(units, tmp_path):
    finite.build_model(tmp_path / "model", ["a", "b", "c"], seed=0)
    model = ModelConfig(str(tmp_path / "model"), max_new_tokens=1, lora=LoRA(rank=2, modules=finite.MODULES))
    run = Run.open(tmp_path, "run", {})
    judge = MatrixJudge([[0.5, 0.9, 0.9], [0.1, 0.5, 0.9], [0.1, 0.1, 0.5]], ["a", "b", "c"])
    for has, steps in ((False, 1), (True, 2)):
        units(has)
        policy = train(StackelbergGDA(0.01, 2, 0.1, 0.1), judge, ["choose a"], run, model, TrainConfig(steps, 4))
        assert str(policy.model.dtype) == "torch.float32"
    settled = json.loads(run.manifest.read_text())["settled"]
    assert settled == {"model dtype": "float32"}


def test_policies_resolve_auto_where_they_are_loaded(units, tmp_path: Path):
    finite.build_model(tmp_path, ["a", "b"], seed=0)
    model = ModelConfig(str(tmp_path), lora=LoRA(rank=2, modules=finite.MODULES))
    for has, chosen in ((True, "torch.bfloat16"), (False, "torch.float32")):
        units(has)
        assert str(load_policy(model, None, 0, "cpu").model.dtype) == chosen
    units(True)
    assert str(load_policy(replace(model, lora=None), None, 0, "cpu").model.dtype) == "torch.float32"
