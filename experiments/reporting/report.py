"""The report of a sweep: its sections, its summary and its headline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.reporting import conclusions, render, results, training
from experiments.reporting.record import RunRecord, SweepRecord, read_run, read_sweep, with_timescales
from slhf.intervals import too_few, with_interval
from slhf.runs import write_atomically, write_json

if TYPE_CHECKING:
    from experiments.language_models import TrainedRun

TEXTS = ("prompts", "answers", "verdicts")
"""What an evaluation holds for each prompt; ``summary.json`` leaves it out."""


def write_again(root: Path, out: Path | None) -> Path:
    """Write the report of the sweep in ``root`` from its run directories; returns the path of ``report.md``."""
    return write_record(out or root, read_sweep(root))


def write(root: Path, runs: list[TrainedRun], evaluation: dict[str, Any]) -> Path:
    """Write the report of a finished language-model sweep into ``root``; returns the path of ``report.md``."""
    records = [read_run(trained.run.path, trained.title) for trained in runs]
    return write_record(root, with_timescales(replace(read_sweep(root), runs=records, evaluation=evaluation)))


def write_record(out: Path, sweep: SweepRecord) -> Path:
    """Write the report of a sweep as it stands into ``out``; returns the path of ``report.md``."""
    sections = sections_of(sweep)
    render.save_figures(out / "figures", sections)
    write_json(out / "summary.json", summary(sweep))
    write_atomically(out / "report.html", render.html(sweep.name, sections))
    path = out / "report.md"
    write_atomically(path, render.markdown(sweep.name, sections))
    return path


def sections_of(sweep: SweepRecord) -> list[render.Section]:
    """The report, from what it comes to down to what it cost."""
    evaluation = sweep.evaluation
    evaluated = (
        []
        if evaluation is None
        else [
            results.win_rates(evaluation),
            results.length(evaluation),
            results.leader_follower(evaluation),
            results.refinement(evaluation),
            results.cycles(evaluation),
            results.attributes(evaluation),
        ]
    )
    sections = [
        conclusions.conclusions(sweep),
        *evaluated,
        training.ablations(sweep),
        training.learning(sweep),
        training.health(sweep),
        training.judge_in_training(sweep),
        training.rewards(sweep),
        training.training_samples(sweep) if evaluation is None else results.samples(evaluation),
        training.progress(sweep),
        training.what_was_run(sweep),
        training.cost(sweep),
    ]
    return [section for section in sections if section is not None]


def summary(sweep: SweepRecord) -> dict[str, Any]:
    """The numbers of the report, for programs."""
    evaluation = sweep.evaluation or {}
    return {
        "finished": sweep.finished,
        **{key: value for key, value in evaluation.items() if key not in TEXTS},
        "runs": {run.title: describe_run(run) for run in sweep.runs},
    }


def describe_run(run: RunRecord) -> dict[str, Any]:
    """Where a run is, how far it is, and its cost per step."""
    seconds = run.metrics.filter(regex="^seconds_")
    facts = {
        "directory": run.directory,
        "state": run.status,
        "error": run.error,
        "steps": run.steps,
        "seconds_per_step": {str(name).removeprefix("seconds_"): float(x) for name, x in seconds.mean().items()},
        "training_seconds": float(seconds.to_numpy().sum()),
    }
    return facts | ({"peak_memory_gib": float(run.metrics["peak_memory_gib"].max())} if run.steps else {})


def headline(path: Path) -> str:
    """What the command prints at the end: the table of win rates, if there is one, and where the report is."""
    found = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))
    if "win_rates" in found:
        return "\n" + headline_text(found["win_rates"], path)
    undone = [title for title, run in found["runs"].items() if run["state"] != "finished"]
    return f"\nNot finished: {', '.join(undone) or 'the evaluation'}\n\n{where(path)}"


def headline_text(rates: results.Rows, path: Path) -> str:
    """The table of win rates, of many players only against the base model, and where the report is."""
    table, remark = results.win_rate_table(rates), too_few(rates[0]["n"])
    remark = f"{remark}\n\n" if remark else ""
    if len(table.rows) <= results.MOST_NOTES:
        return f"Win rate of row over column\n\n{render.table_text(table)}\n\n{remark}{where(path)}"
    rows = [[name, with_interval(rate)] for name, rate in results.against_base(rates).items()]
    short = render.table_text(render.Table(["", f"over {results.BASE}"], rows))
    return f"Win rate over the base model (all pairs are in the report)\n\n{short}\n\n{remark}{where(path)}"


def where(path: Path) -> str:
    """Both forms of a report."""
    return f"Report: {path.with_suffix('.html')}\n        {path}"
