"""Reports of sweeps on disk: everything is shown, nothing untrusted becomes markup, what is missing is named."""

import base64
import html.parser
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from experiments import readme_numbers, report
from experiments.reporting import conclusions, render, results, training
from experiments.reporting import report as reporting
from experiments.reporting.record import read_sweep, write_plan
from slhf.errors import InvalidData
from slhf.runs import Run
from tests.experiments import made_up

HOSTILE = """<script>alert({i})</script></td></table> | a | b |
# {name} ``` ![x](http://example.org/x.png) [l](javascript:x) {{{{ 7*7 }}}} <!-- \\| **b** $x$ &amp; \x00\ud800"""


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text of each table cell."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.cells, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # nothing in a page closes what it did not open

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a finished sweep whose answers try to break out."""
    root = tmp_path_factory.mktemp("runs") / "hostile"
    made_up.sweep(root, answer=HOSTILE)
    assert report.main([str(root)]) == 0
    return root


def test_the_page_needs_nothing_but_itself(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    sources = [attrs["src"] for tag, attrs in page.elements if "src" in attrs]
    assert len(sources) == len(list((written / "figures").glob("*.png"))) >= 7
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    targets = {f"#{attrs['id']}" for tag, attrs in page.elements if tag == "section"}
    assert set(links) == targets
    assert all(attrs["alt"] for tag, attrs in page.elements if tag == "img")


def test_hostile_answers_are_shown_as_they_are(written):
    """On the page whole, in Markdown on one line; in both as one cell of text and nothing else."""
    answer = HOSTILE.format(i=2, name="RLOO")
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    assert render.plain(answer) in page.cells
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse((written / "report.md").read_text())
    inline = [token for token in tokens if token.type == "inline"]
    assert " ".join(render.plain(answer).split()) in ["".join(c.content for c in t.children) for t in inline]
    kinds = {child.type for token in inline for child in token.children}
    assert kinds <= {"text", "text_special", "image", "em_open", "em_close", "softbreak"}
    assert not {token.type for token in tokens} & {"html_block", "fence", "code_block"}
    assert {c.attrs["src"] for t in inline for c in t.children if c.type == "image"} == {
        f"figures/{path.name}" for path in (written / "figures").iterdir()
    }


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.text(), min_size=2, max_size=2), st.text())
def test_any_text_stays_in_its_cell_and_paragraph(cells, text):
    table = render.Table(["first", "second"], [cells])
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(render.markdown_block(table))
    shown = [token for token in tokens if token.type == "inline"]
    assert [t.content and "".join(c.content for c in t.children) for t in shown] == [
        "first",
        "second",
        *(" ".join(render.plain(cell).split()) for cell in cells),
    ]
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(render.markdown_block(render.Text(text)))
    assert {token.type for token in blocks} <= {"paragraph_open", "inline", "paragraph_close"}
    assert Page(render.html(text, [render.Section(text, [render.Text(text), table])])).open == []


def test_every_part_of_an_evaluation_is_shown(written):
    shown = (written / "report.md").read_text()
    titles = re.findall("^## (.*)$", shown, re.MULTILINE)
    assert titles == [
        "What this shows",
        "Win rates",
        "Length",
        "Who improves whom",
        "Refinement",
        "Cycles and selection among answers",
        "What the judge sees",
        "Learning",
        "Are the answers still good English?",
        "The judge in training",
        "The reward of RLOO",
        "Sample answers",
        "What finished and what failed",
        "What was run",
        "Cost",
    ]
    found = json.loads(next(written.glob("evaluation-*/finished.json")).read_text())
    for key in ("win_rates", "leader_follower", "parity", "selection", "length_control"):
        for row in found[key]:
            assert results.with_interval(row).replace("[", r"\[").replace("]", r"\]") in shown
    summary = json.loads((written / "summary.json").read_text())
    assert summary["finished"] is True
    assert {key: found[key] for key in found if key not in reporting.TEXTS} == {
        key: summary[key] for key in summary if key not in ("finished", "runs")
    }


def test_what_a_sweep_did_not_ask_for_is_left_out(tmp_path):
    made_up.sweep(tmp_path / "plain", everything=False)
    assert report.main([str(tmp_path / "plain")]) == 0
    shown = (tmp_path / "plain" / "report.md").read_text()
    for title in ("## Length", "## Who improves whom", "## Cycles", "compute parity"):
        assert title not in shown
    assert "## Refinement" in shown


def test_settings_shared_and_different(tmp_path):
    made_up.sweep(tmp_path)
    differing, shared = training.what_was_run(read_sweep(tmp_path)).blocks[1:]
    assert differing.header == ["setting", "SLHF κ=2", "RLOO", "Nash-MD-PG"]
    assert ["name", "stackelberg_gda", "rloo", "nash_md"] in differing.rows
    assert ["timescale", "2", "–", "–"] in differing.rows
    assert ["train.batch_size", "4"] in shared.rows
    assert {"torch", "commit", "cpus"} <= {row[0] for row in shared.rows}


def test_an_unfinished_sweep_says_what_is_missing(tmp_path):
    runs = {"SLHF": made_up.train(tmp_path), "RLOO": made_up.train(tmp_path, name="rloo", steps=7, finish=False)}
    write_plan(tmp_path, {**runs, "SPO": "spo-0123456789"}, made_up.SETTINGS)
    with (tmp_path / runs["RLOO"] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "leader_')  # the run goes on while we read
    assert report.main([str(tmp_path), "--out", str(tmp_path / "look")]) == 0
    shown = (tmp_path / "look" / "report.md").read_text()
    assert "Missing: RLOO (not finished), SPO (not started)." in shown
    assert "no evaluation yet" in shown
    assert re.search(r"\| RLOO +\| not finished +\| +7 of 20", shown)
    assert "Because of it." in shown  # an answer in training, as there are no others
    assert json.loads((tmp_path / "look" / "summary.json").read_text())["finished"] is False
    assert not (tmp_path / "report.md").exists()


def test_an_error_that_stopped_a_run_is_kept_and_shown(tmp_path):
    runs = {"SLHF": made_up.train(tmp_path, steps=3, finish=False)}
    run = Run(tmp_path / runs["SLHF"])

    with pytest.raises(MemoryError), run.error_kept():
        raise MemoryError("no | room")
    write_plan(tmp_path, runs, made_up.SETTINGS)
    assert read_sweep(tmp_path).runs[0].status == "stopped by an error"
    assert report.main([str(tmp_path)]) == 0
    assert re.search(r"\| SLHF κ=2 +\| at step 3 +\| MemoryError: no \\\| room", (tmp_path / "report.md").read_text())
    run.finish({"steps": 3})
    assert read_sweep(tmp_path).runs[0].status == "finished"
    assert report.main([str(tmp_path)]) == 0
    assert "finished since" in (tmp_path / "report.md").read_text()


def test_a_failed_step_names_its_error(tmp_path):
    name = made_up.train(tmp_path, steps=3, finish=False)
    (tmp_path / name / "failed_step").mkdir()
    (tmp_path / name / "failed_step" / "step.json").write_text('{"error": "Step 3: the loss is nan."}')
    assert read_sweep(tmp_path).runs[0].error == "Step 3: the loss is nan."


def test_the_plan_says_which_evaluation_is_meant(tmp_path):
    """The last one that ran may be of other runs or settings; the plan is of the sweep that was started last."""
    runs = made_up.sweep(tmp_path)
    other = made_up.result({"SLHF": True})
    made_up.evaluate(tmp_path, {"SLHF": runs["SLHF κ=2"]}, other)
    made_up.evaluate(tmp_path, runs, {**other, "prompts": []}, made_up.SETTINGS | {"rounds": 9})
    found = read_sweep(tmp_path)
    assert [run.title for run in found.runs] == list(runs)
    assert list(found.evaluation["answers"]) == made_up.players_of({t: t == "SLHF κ=2" for t in runs})
    assert len(found.evaluation["prompts"]) == 4


def test_a_directory_without_a_plan_is_read_as_its_last_evaluation_or_all_its_runs(tmp_path):
    names = [made_up.train(tmp_path, timescale=value) for value in (1.0, 5.0)]
    found = read_sweep(tmp_path)
    assert sorted(run.title for run in found.runs) == ["SLHF (timescale=1.0)", "SLHF (timescale=5.0)"]
    assert not found.planned
    evaluated = made_up.evaluate(tmp_path, {"Mine": names[0]}, made_up.result({"Mine": True}))
    found = read_sweep(tmp_path)
    assert [run.title for run in found.runs] == ["Mine κ=1"]
    assert found.others == names[1:]
    (evaluated / "finished.json").unlink()
    assert read_sweep(tmp_path).evaluation is None


def test_ablations_are_runs_that_differ_in_one_setting(tmp_path):
    for timescale in (5.0, 1.0):
        for seed in (0, 1):
            made_up.train(tmp_path, timescale=timescale, seed=seed)
    made_up.train(tmp_path, timescale=1.0, sharing="two")
    made_up.train(tmp_path, name="rloo")
    made_up.train(tmp_path, name="spo")
    found = training.ablations(read_sweep(tmp_path)).blocks
    assert {table.header[0]: [row[:2] for row in table.rows] for table in found} == {
        "timescale": [["1", "0"], ["1", "1"], ["5", "0"], ["5", "1"]],
        "model.sharing": [["one", "0"], ["one", "1"], ["two", "0"]],
    }


def test_conclusions_follow_from_the_intervals():
    rates = {"A": (0.7, 0.6, 0.8), "B": (0.6, 0.5, 0.7), "C": (0.4, 0.3, 0.49)}
    rows = {name: dict(zip(("mean", "low", "high"), rate, strict=True)) for name, rate in rates.items()}
    assert conclusions.tally("Preferred", rows) == (
        "Preferred: the whole interval lies above .5 in 1 of 3 (A 0.700 [0.60, 0.80]). "
        "It contains .5 in 1 (B 0.600 [0.50, 0.70]) and lies below .5 in 1 (C 0.400 [0.30, 0.49])."
    )
    assert "above .5 in 0 of 1. It contains .5 in 1 (B" in conclusions.tally("Preferred", {"B": rows["B"]})
    equal = {"A": {"mean": 0.52, "low": 0.45, "high": 0.6}, "B": rows["A"]}
    (sentence,) = conclusions.length(rows, equal)
    assert "of the 1 players above .5" in sentence
    assert "above .5 in 0 of 1. It contains .5 in 1 (A 0.520 [0.45, 0.60])" in sentence


def test_few_prompts_support_no_verdict_anywhere(tmp_path, capsys):
    """One prompt, recorded with its interval of no width by an older version: neither bounds nor sides are shown."""
    runs = {"SLHF": made_up.train(tmp_path), "RLOO": made_up.train(tmp_path, name="rloo")}
    found = made_up.result({title: title == "SLHF" for title in runs})
    for rows in found.values():
        for row in rows if isinstance(rows, list) and isinstance(rows[0], dict) else ():
            if "low" in row:
                row |= {"n": 1, "low": row["mean" if "mean" in row else "slope"], "high": row.get("mean", 0.0)}
    found["cycles"]["prompts"] = 1
    write_plan(tmp_path, runs, made_up.SETTINGS)
    made_up.evaluate(tmp_path, runs, found)
    assert report.main([str(tmp_path)]) == 0
    shown = (tmp_path / "report.md").read_text()
    assert not re.search(r"\d \\\[", shown)  # an interval
    assert "whole interval" not in shown
    assert "contains .5" not in shown
    assert "Among the" not in shown
    assert "Below 20 prompts there is no interval and no verdict; here are 1." in shown
    assert "Below 20 prompts there is no interval" in capsys.readouterr().out


def test_claims_count_the_variants_that_do_not_support_them():
    """The committed long run: a Follower over its Leader in two of four, best of two ahead in all five."""
    told = readme_numbers.told(read_sweep(readme_numbers.HOUR))
    text = " ".join(told.split())
    assert "Followers preferred to their own Leader's answer: the whole interval lies above .5 in 2 of 4" in text
    assert "It contains .5 in 2 (SLHF κ=1 Follower 0.514 [0.47, 0.56]; SLHF κ=5 Follower 0.517 [0.48, 0.55])" in text
    assert "of refinement is higher than that of best of 2 for 0 of 5 policies and lower for 5" in text
    summary = json.loads((readme_numbers.HOUR / "summary.json").read_text(encoding="utf-8"))
    assert conclusions.sentences(summary) == conclusions.sentences(read_sweep(readme_numbers.HOUR).evaluation)


def test_tables_of_many_intervals_say_what_chance_would_do(written):
    shown = (written / "report.md").read_text()
    assert "Of 15 intervals at 95 %, about 0.8 would leave out .5 by chance" in shown
    assert shown.count("by chance if nothing differed") >= 5


def test_only_a_run_with_a_follower_has_a_leader_and_every_label_names_its_timescale(tmp_path):
    runs = {"SLHF": made_up.train(tmp_path), "RLOO": made_up.train(tmp_path, name="rloo")}
    write_plan(tmp_path, runs, made_up.SETTINGS)
    made_up.evaluate(tmp_path, runs, made_up.result({title: title == "SLHF" for title in runs}))
    sweep = read_sweep(tmp_path)
    assert list(sweep.evaluation["answers"])[2:4] == ["SLHF κ=2 Leader", "SLHF κ=2 Follower"]
    assert {row["method"] for row in sweep.evaluation["selection"]} >= {"SLHF Leader"}  # a concept, not a player
    assert report.main([str(tmp_path)]) == 0
    shown = (tmp_path / "report.md").read_text()
    assert "RLOO Leader" not in shown
    assert re.search(r"\| RLOO +\| – +\|", shown)
    assert "SLHF κ=2 Follower" in shown


def test_pairs_among_the_trained_are_counted_once():
    evaluation = made_up.result({"SLHF": True, "RLOO": False})
    rates = {(r["row"], r["column"]): r for r in evaluation["win_rates"]}
    rates["RLOO", "SLHF Follower"] |= {"mean": 0.7, "low": 0.6, "high": 0.8}
    rates["SLHF Follower", "RLOO"] |= {"mean": 0.3, "low": 0.2, "high": 0.4}
    (sentence,) = conclusions.among_trained(evaluation["win_rates"])
    assert "leaves out .5 in 1 of 1 pairs" in sentence
    assert "RLOO over SLHF Follower 0.700 [0.60, 0.80]" in sentence


def test_leader_and_follower_are_side_by_side():
    players = [*made_up.players_of({"SLHF": True, "RLOO": False}), "A Leader"]
    assert results.pairs_of(players) == {
        "Base": ("Base", "Base as Follower"),
        "SLHF": ("SLHF Leader", "SLHF Follower"),
        "RLOO": ("RLOO", None),
        "A Leader": ("A Leader", None),
    }
    evaluation = made_up.result({"SLHF": True, "RLOO": False})
    (_, first, *_) = results.samples(evaluation).blocks
    answers = evaluation["answers"]
    assert first.rows[1] == ["SLHF", answers["SLHF Leader"][0], "0.1", answers["SLHF Follower"][0], "0.1"]
    assert first.rows[2][3:] == ["", ""]


def test_a_table_of_pairs_keeps_its_order_and_its_numbers():
    rates = made_up.result({"SLHF": True, "RLOO": False})["win_rates"]
    table = results.win_rate_table(rates)
    assert table.header[1:] == [row[0] for row in table.rows] == made_up.players_of({"SLHF": True, "RLOO": False})
    for rate in rates:
        row = next(row for row in table.rows if row[0] == rate["row"])
        assert row[table.header.index(rate["column"])] == results.with_interval(rate)
    assert table.numeric == [False, True, True, True, True, True]


def test_thirteen_players_with_long_names(tmp_path, capsys):
    made_up.ablation(tmp_path)
    assert report.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-3])) < 100
    assert sum(line.startswith("| ") for line in lines) == 1 + 12


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no such directory"),
        (lambda root: root.mkdir(), "holds no runs"),
        (lambda root: made_up.train(root / "quickstart", steps=1), "quickstart"),
        (lambda root: (root / made_up.train(root, steps=1) / "manifest.json").write_text("{"), "manifest.json"),
        (lambda root: (root / made_up.train(root, steps=1) / "finished.json").write_text("[1"), "finished.json"),
        (lambda root: made_up.evaluate(root, {"A": made_up.train(root, steps=1)}, {"answers": {}}), "lacks win_rates"),
    ],
)
def test_a_directory_that_cannot_be_read_is_one_line_and_a_status(tmp_path, capsys, prepare, message):
    prepare(tmp_path / "runs")
    assert report.main([str(tmp_path / "runs")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        report.main(["--help"])
    shown = capsys.readouterr().out
    for word in ("RUNS_DIR", "runs/quickstart", "report.html", "missing"):
        assert word in shown


def test_the_readme_shows_the_numbers_of_a_sweep(tmp_path, capsys):
    made_up.sweep(tmp_path / "quickstart")
    readme = tmp_path / "README.md"
    texts = ("\nold\n".join(readme_numbers.marks(name)) for name in ("quickstart", "hour"))
    readme.write_text("\n\n".join(["before", *texts, "after\n"]))
    arguments = [str(tmp_path / "quickstart"), "--readme", str(readme)]
    assert readme_numbers.main([*arguments, "--check"]) == 1
    assert "does not show the numbers" in capsys.readouterr().err
    assert "old" in readme.read_text()
    assert readme_numbers.main(arguments) == 0
    assert readme_numbers.main([*arguments, "--check"]) == 0
    shown = readme.read_text()
    assert shown.startswith("before\n")
    assert shown.endswith("\nafter\n")
    assert "old" not in shown
    assert shown.count("Followers preferred to their own Leader's answer") == 2
    for rate in made_up.result({"SLHF": True, "RLOO": False, "Nash-MD-PG": False})["win_rates"]:
        assert results.with_interval(rate) in shown
    assert str(tmp_path) not in shown


def test_a_readme_without_markers_and_an_unfinished_sweep_are_refused(tmp_path, capsys):
    made_up.sweep(tmp_path / "quickstart")
    readme = tmp_path / "README.md"
    readme.write_text(" ".join(reversed(readme_numbers.marks("quickstart"))))
    assert readme_numbers.main([str(tmp_path / "quickstart"), "--readme", str(readme)]) == 1
    assert "once each, in this order" in capsys.readouterr().err
    next((tmp_path / "quickstart").glob("rloo-*/finished.json")).unlink()
    with pytest.raises(InvalidData, match="not finished"):
        readme_numbers.block(read_sweep(tmp_path / "quickstart"))
