"""The main job in small, on the embedded model: every part of it, and what it leaves behind."""

import json

import pytest

from experiments.run import HERE, main
from llm.judges.attributes import AttributeJudge
from slhf.errors import JudgeError
from tests.experiments.tiny_sweep import tiny_quickstart
from tests.llm.tiny import tiny_classifier

pytestmark = pytest.mark.numeric

SMALL = ("steps=2", "batch_size=2", "max_new_tokens=5", "layers=1", "pairs=4", "evaluation.prompts=4", "rounds=3")
SMALL += ("model.dtype=float32", "judge.dtype=float32")  # recomputed below on any processor
PLAYERS = ["Base", "Base as Follower", "SLHF κ=2 Leader", "SLHF κ=2 Follower", "RLOO", "Nash-MD-PG"]


def arguments(out, *more):
    settings = [item for setting in (*SMALL, *more) for item in ("--set", setting)]
    return [str(HERE / "sweeps" / "quickstart.yaml"), *settings, "--out", str(out)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep whose judge fails in the third run and which is then started again."""
    out = tmp_path_factory.mktemp("runs")
    honest, asked = AttributeJudge.prefer, []

    def failing(self, prompts, a, b):
        asked.append(len(prompts))
        if len(asked) == 4:
            raise JudgeError("gone")
        return honest(self, prompts, a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttributeJudge, "prefer", failing)
        assert main(arguments(out)) == 1
    first = {path: path.stat().st_mtime_ns for path in out.rglob("finished.json")}
    assert len(first) == 2  # StackelbergGDA asks twice and RLOO once; Nash-MD-PG was cut short
    assert main(arguments(out)) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    return out / "quickstart"


def test_every_pair_of_players_has_a_win_rate_and_four_prompts_no_interval(finished):
    summary = json.loads((finished / "summary.json").read_text())
    rates = {(rate["row"], rate["column"]): rate for rate in summary["win_rates"]}
    assert set(rates) == {(a, b) for a in PLAYERS for b in PLAYERS if a != b}
    for (a, b), rate in rates.items():
        assert rate["n"] == 4
        assert (rate["low"], rate["high"]) == (None, None)
        assert 0 <= rate["mean"] <= 1
        assert rate["mean"] + rates[b, a]["mean"] == pytest.approx(1)


def test_the_summary_is_what_the_judge_says_of_the_answers(finished):
    """Recomputed from the stored answers, by a judge that never saw the run."""
    (result,) = finished.glob("evaluation-*/finished.json")
    evaluation = json.loads(result.read_text())
    judge = AttributeJudge(dtype="float32")
    answers = evaluation["answers"]
    p = judge.prefer(evaluation["prompts"], answers["SLHF Follower"], answers["Base"])
    (rate,) = [r for r in evaluation["win_rates"] if (r["row"], r["column"]) == ("SLHF Follower", "Base")]
    assert rate["mean"] == pytest.approx(p.mean())
    assert evaluation["verdicts"]["SLHF Follower"] == pytest.approx(p.tolist())


def test_refinement_starts_with_the_leader_and_goes_on(finished):
    rows = json.loads((finished / "summary.json").read_text())["refinement"]
    assert {(row["policy"], row["round"]) for row in rows} == {
        ("Base", 2),
        ("Base", 3),
        ("SLHF κ=2", 1),
        ("SLHF κ=2", 2),
        ("SLHF κ=2", 3),
    }


def test_every_run_leaves_manifest_metrics_samples_and_adapter(finished):
    runs = [path for path in finished.iterdir() if path.name.startswith(("stackelberg", "rloo", "nash"))]
    assert len(runs) == 3
    for run in runs:
        assert json.loads((run / "manifest.json").read_text())["config"]["train"]["steps"] == 2
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
        assert (run / "samples.jsonl").exists()
        assert (run / "checkpoint-000002" / "adapter" / "adapter_model.safetensors").exists()


def test_the_report_shows_tables_figures_and_answers(finished):
    report = (finished / "report.md").read_text()
    for heading in ("Win rates", "Refinement", "Learning", "Sample answers", "Cost", "The reward of RLOO"):
        assert f"## {heading}" in report
    for name in ("win_rates", "refinement", "learning", "health"):
        assert f"figures/{name}.png" in report
        assert (finished / "figures" / f"{name}.png").stat().st_size > 5_000


def test_a_second_start_repeats_nothing(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*-*/**/*") if path.is_file()}
    assert main(arguments(finished.parent)) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.glob("*-*/**/*") if path.is_file()} == before
    printed = capsys.readouterr().out
    assert "SLHF κ=2 Follower" in printed
    assert str(finished / "report.md") in printed


def test_runs_of_one_algorithm_are_named_by_what_differs(tmp_path):
    judge = f"judge.model={tiny_classifier(tmp_path / 'judge')}"
    settings = ("judge.kind=reward_model", judge, "timescale=2,3")
    assert main([*tiny_quickstart(tmp_path), *(f"--set={setting}" for setting in settings)]) == 0
    report = (tmp_path / "runs" / "quickstart" / "report.md").read_text()
    assert "SLHF (timescale=2.0)" in report
    assert "SLHF (timescale=3.0) Follower" in report
    assert "RLOO (" not in report


def test_no_run_may_be_called_what_the_untrained_model_is(tmp_path, capsys):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: x\nalgorithms: [{name: rloo, title: Base}]\n", encoding="utf-8")
    assert main([str(sweep), "--out", str(tmp_path / "runs")]) == 1
    assert "'Base' is what the untrained model is called" in capsys.readouterr().err


def test_too_few_held_out_prompts_are_named(tmp_path, capsys):
    assert main(arguments(tmp_path, "evaluation.prompts=1000", "steps=1")) == 1
    assert "evaluation.prompts = 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [("sharing=two", "RLOO has no Follower"), ("sharing=two,one", "RLOO has no Follower")],
)
def test_an_algorithm_that_cannot_be_run_is_refused_before_another_is_trained(tmp_path, capsys, more, message):
    assert main(arguments(tmp_path, more, "steps=1")) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
