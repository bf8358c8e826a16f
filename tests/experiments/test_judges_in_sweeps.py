"""A sweep with each kind of judge, end to end on a tiny model; and the sweeps that no judge of that kind can serve."""

import hashlib
import json

import numpy as np
import pytest

from experiments.config import load_sweep
from experiments.run import main
from llm import finite
from llm.judges.config import LocalLMJudgeConfig, RewardModelJudgeConfig
from llm.judges.loading import load_judge
from tests.experiments.tiny_sweep import QUICKSTART, tiny_quickstart
from tests.llm.tiny import tiny_classifier

pytestmark = pytest.mark.numeric

TWO = "--set=algorithms=[stackelberg_gda, nash_md]"
REWARD = {"comparisons", "seconds_per_comparison"}
ORDERS = REWARD | {"order_disagreement", "first_preferred"}


@pytest.fixture
def tiny(tmp_path):
    return tiny_quickstart(tmp_path)


def runs(tmp_path):
    """By algorithm, the directories of the sweep's runs."""
    return {path.name.rpartition("-")[0]: path for path in (tmp_path / "runs" / "quickstart").glob("*-*")}


def rows(run, name="metrics.jsonl"):
    return [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]


def judged(row):
    return {key.removeprefix("judge_"): value for key, value in row.items() if key.startswith("judge_")}


def test_a_reward_model_rewards_rloo_directly(tmp_path, tiny):
    path = tiny_classifier(tmp_path / "judge")
    assert main([*tiny, "--set=judge.model=" + path, "--set=judge.kind=reward_model"]) == 0
    found = runs(tmp_path)
    judge = load_judge(RewardModelJudgeConfig(path), "cpu")
    samples = rows(found["rloo"], "samples.jsonl")
    reward = judge.reward([row["prompt"] for row in samples], [row["leader"] for row in samples])
    np.testing.assert_allclose([row["signal"] for row in samples], reward, atol=1e-5)
    assert not (found["rloo"] / "reward.json").exists()
    for name, compared in (("stackelberg_gda", True), ("rloo", False), ("nash_md", True)):
        for row in rows(found[name]):
            assert set(judged(row)) == (REWARD if compared else set())
            assert judged(row).get("comparisons", 2) == 2


@pytest.mark.parametrize("kind", ["classifier", "local_lm"])
def test_judges_of_two_orders_write_their_metrics(tmp_path, tiny, kind):
    model = str(tmp_path / "judge")
    if kind == "local_lm":
        finite.build_model(tmp_path / "judge", ("A", "B", *"abc"), seed=1)
    else:
        tiny_classifier(tmp_path / "judge", labels=2)
    assert main([*tiny, f"--set=judge.kind={kind}", f"--set=judge.model={model}", TWO]) == 0
    found = runs(tmp_path)
    assert set(found) == {"stackelberg_gda", "nash_md", "evaluation"}
    for name in ("stackelberg_gda", "nash_md"):
        for row in rows(found[name]):
            answered = judged(row)
            # where both answers are the same text in all rows, the order says nothing
            assert set(answered) - {"letter_mass"} in (ORDERS, REWARD)
            assert ("letter_mass" in answered) == (kind == "local_lm")
    if kind == "local_lm":
        samples = rows(found["stackelberg_gda"], "samples.jsonl")
        shown = [[sample[key] for sample in samples] for key in ("prompt", "leader", "follower")]
        p = load_judge(LocalLMJudgeConfig(model), "cpu").prefer(*shown)
        assert np.abs(p - 0.5).max() > 1e-3
        np.testing.assert_allclose([sample["signal"] for sample in samples], p, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["judge.kind=local_lm"], "RLOO needs a scalar reward, and a judge of kind local_lm has none"),
        (["judge.kind=classifier", "judge.model=x"], "RLOO needs a scalar reward"),
        (["judge.kind=reward_model"], "judge.model is missing"),
        (["judge.model=x"], "valid are judge.kind"),
        (["judge.kind=local_lm", "algorithms=[nash]"], "did you mean nash_md"),
        (["judge.kind=local_lm", "judge.template=Which?"], "must have the fields"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_training(tmp_path, capsys, more, message):
    assert main([QUICKSTART, "--out", str(tmp_path), *(f"--set={setting}" for setting in more)]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_judge_that_is_not_there_is_one_line(tmp_path, tiny, capsys):
    assert main([*tiny, "--set=judge.kind=reward_model", "--set=judge.model=/no/such/model"]) == 1
    assert "error: Cannot load the model '/no/such/model'" in capsys.readouterr().err.splitlines()[-1]


def test_a_judge_of_one_s_own_in_a_sweep(tmp_path, tiny):
    """It judges and rewards, and its file's digest is in the manifests."""
    source = "class Mine:\n    def prefer(self, prompts, a, b):\n        return [0.5 for _ in a]\n\n"
    source += "    def reward(self, prompts, answers):\n        return [float(len(y)) for y in answers]\n"
    (tmp_path / "mine.py").write_text(source)
    judge = ["--set=judge.kind=python", f"--set=judge.target={tmp_path}/mine.py:Mine"]
    assert main([*tiny, *judge, "--set=algorithms=[rloo, nash_md]"]) == 0
    found = runs(tmp_path)
    manifest = json.loads((found["rloo"] / "manifest.json").read_text())["config"]["judge"]
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    assert manifest == {"kind": "python", "target": "mine.py:Mine", "sha256": digest}
    assert all(row["signal"] == len(row["leader"]) for row in rows(found["rloo"], "samples.jsonl"))
    rate = json.loads((found["evaluation"] / "finished.json").read_text())["win_rates"][0]
    assert (rate["mean"], rate["low"], rate["high"]) == (0.5, None, None)


def test_a_judge_s_file_is_beside_the_sweep_s(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\njudge: {kind: python, target: 'mine.py:prefer'}\nalgorithms: [{name: spo}]"
    )
    (sweep,) = load_sweep(tmp_path / "s.yaml")
    assert sweep.judge.target == str(tmp_path / "mine.py:prefer")


def test_rloo_needs_a_judge_of_one_s_own_with_a_reward(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def prefer(prompts, a, b):\n    return [0.5] * len(a)\n")
    judge = ["--set=judge.kind=python", f"--set=judge.target={tmp_path}/mine.py:prefer"]
    assert main([QUICKSTART, "--out", str(tmp_path / "runs"), *judge]) == 1
    assert "RLOO needs a scalar reward" in capsys.readouterr().err
