"""The round robin's and the export's commands as a user meets them, on tiny models."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments import contestants, evaluate, export, exporting, meeting
from experiments.run import HERE
from llm.checkpoint import PREFIX
from llm.config import load_policy
from llm.data import PRESETS, PromptConfig, load_prompts
from llm.policy import FOLLOWER, Policy
from slhf.errors import ConfigError
from slhf.runs import Run
from tests.experiments.examinees import LORA, PROMPTS, TextJudge, adapter, build


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a Stackelberg run of two adapters with two checkpoints, a run of one adapter, prompts."""
    folder = tmp_path_factory.mktemp("place")
    model = build(folder / "model")
    for name, sharing, steps in (("stackelberg_gda", "two", (1, 2)), ("rloo", "one", (3,))):
        description = {"name": model.name, "dtype": "float32", "temperature": 1.0, "max_new_tokens": 3}
        lora = {"rank": LORA.rank, "alpha": LORA.alpha, "modules": list(LORA.modules)}
        config = {"algorithm": {"name": name}, "model": {**description, "lora": lora, "sharing": sharing}}
        config["prompts"] = {"source": "embedded"}
        run = Run.open(folder, name, config)
        for step in steps:
            adapter(model, run.path / f"{PREFIX}{step:06d}" / "adapter", step, sharing)
        run.path.rename(folder / name)
    rows = [json.dumps({"prompt": prompt, "split": "heldout"}) for prompt in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def judged(monkeypatch):
    monkeypatch.setattr(meeting, "load_judge", lambda *_, **__: TextJudge())


def command(place, out, *more):
    who = [f"base={place / 'model'}", f"slhf={place / 'stackelberg_gda'}", f"rloo={place / 'rloo'}"]
    return [*who, "--prompts", str(place / "prompts.jsonl"), "--resamples", "100", "--out", str(out), *more]


@pytest.mark.parametrize("script", [evaluate, export])
def test_help_teaches(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.usefixtures("judged")
def test_anyone_meets_anyone_and_answers_are_kept(place, tmp_path, capsys, monkeypatch):
    everything = ("--leader-follower", "--parity", "--samples", "2", "--length-control")
    assert evaluate.main(command(place, tmp_path, *everything, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["answers"]) == ["base", "base as Follower", "slhf Leader", "slhf Follower", "rloo"]
    assert result["cycles"]["players"] == ["base", "slhf Leader", "rloo"]
    monkeypatch.setattr(meeting, "examine", None)
    assert evaluate.main(command(place, tmp_path, *everything)) == 0
    shown = capsys.readouterr().out
    for heading in ("Preference for the row over the column", "at equal lengths", "number", "Cycles", "same texts"):
        assert heading in shown.replace("by generations", "by number of generations")
    (report,) = tmp_path.glob("*/report.md")
    assert report.read_text() in shown


@pytest.mark.usefixtures("judged")
def test_weights_that_changed_are_asked_again(place, tmp_path):
    who = [f"a={place / 'model'}", f"b={tmp_path / 'b'}", "--prompts", str(place / "prompts.jsonl")]
    for seed in (1, 2):
        adapter(build(place / "model"), tmp_path / "b", seed)
        assert evaluate.main([*who, "--out", str(tmp_path / "out"), "--resamples", "10"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_contestant_is_what_its_path_says(place):
    run = place / "stackelberg_gda"
    latest, own = contestants.resolve("x", str(run))
    assert (latest.adapter, latest.trained_follower, own) == (run / f"{PREFIX}000002" / "adapter", True, True)
    first = run / f"{PREFIX}000001"
    assert contestants.resolve("x", str(first))[0].adapter == first / "adapter"
    assert contestants.resolve("x", str(first / "adapter"))[0].adapter == first / "adapter"
    assert contestants.resolve("x", str(place / "model"))[0].model.lora is None
    assert contestants.resolve("x", "embedded")[0].model.name == "embedded"


@pytest.mark.parametrize("inside", ["failed_step/adapter", f"{PREFIX}000001-copy", f"{PREFIX}000001-copy/adapter"])
def test_a_directory_of_a_run_outside_its_checkpoints_is_not_its_latest(place, tmp_path, inside):
    run = tmp_path / "run"
    shutil.copytree(place / "stackelberg_gda", run)
    shutil.copytree(run / f"{PREFIX}000001" / "adapter", run / inside)
    with pytest.raises(ConfigError, match="neither the run"):
        contestants.resolve("x", str(run / inside))
    (tmp_path / "link").symlink_to(run)
    (run / "best").symlink_to(run / f"{PREFIX}000001")
    assert contestants.resolve("x", str(tmp_path / "link"))[0].adapter.parent.name == f"{PREFIX}000002"
    assert contestants.resolve("x", str(run / "best"))[0].adapter == run / f"{PREFIX}000001" / "adapter"


def test_a_checkpoint_samples_as_it_was_trained_and_a_bare_adapter_as_the_same_policy(place, tmp_path):
    model = build(tmp_path / "model")
    adapter(model, tmp_path / "adapter", 5)
    bare, own = contestants.resolve("bare", str(tmp_path / "adapter"))
    assert not own
    policy, trained = bare.load(), load_policy(model, tmp_path / "adapter", 0, "cpu")
    ids = torch.tensor([trained.chat.prompt("choose a")])
    assert torch.allclose(logits(policy, ids), logits(trained, ids), atol=1e-5)


@torch.no_grad()
def logits(policy, ids):
    return policy.head(policy.decoder(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (["alone=embedded"], "at least two"),
        (["a=embedded", "nothing"], "NAME=WHAT"),
        (["a=embedded", "b=runs/no/such-run"], "there is no directory runs/no/such-run"),
        (["a=embedded", "b=tests/nowhere"], "there is no directory tests/nowhere"),
        (["a=embedded", "b=tests"], "neither a run"),
        (["a=embedded", "b=experiments/run.py"], "there is no directory"),
        (["a=embedded", "a=embedded"], "'a'"),
        (["a=embedded", "b=embedded", "--count", "100000"], "--count 100000"),
        (["a=embedded", "b=embedded", "--judge", "attribute"], "attributes"),
        (["a=embedded", "b=embedded", "--judge", "reward_model,modle=x"], "modle"),
        (["a=embedded", "b=embedded", "--judge", "reward_model,x"], "KEY=VALUE"),
        (["a=embedded", "b=embedded", "--judge", "reward_model,model=[a"], "[a is not YAML"),
        (["a=embedded", "b=embedded", "--judge", "reward_model,model=2020-99-99"], "2020-99-99 is not YAML"),
        (["a=embedded", "b=embedded", "--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_a_status(tmp_path, capsys, monkeypatch, who, message):
    monkeypatch.chdir(HERE.parent)
    monkeypatch.setattr(meeting, "load_judge", lambda *_, **__: TextJudge())
    assert evaluate.main([*who, "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert message in shown


def test_a_run_without_checkpoint_or_language_model_is_named(tmp_path):
    run = Run.open(tmp_path, "rloo", {"algorithm": {"name": "rloo"}, "model": {"name": "embedded"}})
    with pytest.raises(Exception, match="no checkpoint"):
        contestants.resolve("x", str(run.path))
    with pytest.raises(ConfigError, match="not a run that trained a language model"):
        contestants.resolve("x", str(Run.open(tmp_path, "evaluation", {"prompts": []}).path))


def trained_on(source, place, folder, **settings):
    """A copy of the run of one adapter that says it trained on that source."""
    shutil.copytree(place / "rloo", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["prompts"] = {"source": str(source), **settings}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.usefixtures("judged")
def test_what_a_run_trained_on_is_not_held_out(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.jsonl").write_text("\n".join(json.dumps({"prompt": f"choose {i}"}) for i in range(40)))
    trained = PromptConfig("asked.jsonl", heldout_share=0.4, limit=9)
    held_out = load_prompts(trained, "heldout")
    assert held_out != load_prompts("asked.jsonl", "heldout")
    mine = trained_on(tmp_path / "asked.jsonl", place, tmp_path / "mine", heldout_share=0.4, limit=9)
    options = ["--prompts", "asked.jsonl", "--resamples", "10", "--json"]
    assert evaluate.main([f"base={place / 'model'}", f"a={mine / 'checkpoint-000003' / 'adapter'}", *options]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == held_out
    assert export.main([str(mine), "--to", "alpaca_eval", "--prompts", "asked.jsonl", "--out", "out.json"]) == 0
    assert [row["instruction"] for row in json.loads((tmp_path / "out.json").read_text())] == held_out

    other = trained_on("asked.jsonl", place, tmp_path / "other", heldout_share=0.2, limit=9)
    capsys.readouterr()
    assert evaluate.main([f"a={mine}", f"b={other}", *options]) == 1
    shown = capsys.readouterr().err
    assert "other settings (heldout_share)" in shown
    assert shown.count("\n") == 1
    assert contestants.prompts_as_trained("embedded", [str(mine), str(other), "embedded"]) == PromptConfig()


def test_a_preset_and_its_data_set_are_one_source(place, tmp_path):
    run = trained_on(PRESETS["hh"], place, tmp_path / "run", heldout_share=0.3)
    assert contestants.prompts_as_trained("hh", [str(run)]) == PromptConfig("hh", heldout_share=0.3)
    (run / "manifest.json").write_text('{"config": {}}')
    with pytest.raises(ConfigError, match="which prompts"):
        contestants.prompts_as_trained("hh", [str(run)])


def test_runs_that_sample_differently_need_a_setting(place, tmp_path):
    one, other = (contestants.resolve("x", str(place / name)) for name in ("rloo", "stackelberg_gda"))
    hot = Run.open(tmp_path, "rloo", {"algorithm": {"name": "rloo"}, "model": {"temperature": 2.0}})
    adapter(build(tmp_path / "m"), hot.path / f"{PREFIX}000001" / "adapter", 1)
    third = contestants.resolve("x", str(hot.path))
    with pytest.raises(ConfigError, match=r"differ in temperature \(1\.0, 2\.0\)"):
        contestants.sampled_alike([one, third], None, 4)
    alike = contestants.sampled_alike([one, third], 0.5, 4)
    assert {(c.model.temperature, c.model.max_new_tokens) for c in alike} == {(0.5, 4)}
    plain = contestants.resolve("x", str(place / "model"))
    assert contestants.sampled_alike([plain, other], None, None)[0].model.temperature == 1.0


@pytest.mark.parametrize("name", ["rloo", "stackelberg_gda"])
def test_the_merged_model_has_the_logits_of_the_adapter(place, tmp_path, capsys, name):
    out = tmp_path / "merged"
    assert export.main([str(place / name), "--to", "lm_eval", "--out", str(out)]) == 0
    assert (
        f"--model_args pretrained={out},dtype=float32 --tasks ifeval --apply_chat_template" in capsys.readouterr().out
    )
    policy = contestants.resolve("x", str(place / name))[0].load()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([policy.chat.prompt("choose a")])
    with torch.no_grad():
        merged = model(input_ids=ids).logits
    assert torch.allclose(merged, logits(policy, ids), atol=1e-5)
    with policy.reference():
        assert not torch.allclose(merged, logits(policy, ids), atol=1e-2)
    if policy.sharing == "two":
        with policy.active(FOLLOWER):
            assert not torch.allclose(merged, logits(policy, ids), atol=1e-2)
    assert Policy.as_is(str(out), dtype="float32").chat.prompt("choose a") == ids[0].tolist()
    assert tokenizer.chat_template
    assert export.main([str(place / name), "--to", "lm_eval", "--out", str(out)]) == 1
    assert "exists" in capsys.readouterr().err


def test_alpaca_eval_gets_its_format(place, tmp_path, capsys):
    questions = [{"instruction": x, "dataset": "helpful_base", "output": "-", "generator": "?"} for x in PROMPTS]
    (tmp_path / "alpaca_eval.json").write_text(json.dumps(questions))
    texts = {}
    for role in ("leader", "follower"):
        out = tmp_path / f"{role}.json"
        options = ["--role", role, "--prompts", str(tmp_path / "alpaca_eval.json"), "--out", str(out)]
        assert export.main([str(place / "stackelberg_gda"), "--to", "alpaca_eval", *options]) == 0
        assert f"alpaca_eval --model_outputs {out}" in capsys.readouterr().out
        rows = json.loads(out.read_text())
        assert [row["instruction"] for row in rows] == PROMPTS
        assert {row["dataset"] for row in rows} == {"helpful_base"}
        assert {row["generator"] for row in rows} == {f"stackelberg_gda {role}"}
        assert all(set(row) == {"dataset", "instruction", "output", "generator"} for row in rows)
        texts[role] = [row["output"] for row in rows]
    assert texts["leader"] != texts["follower"]


def test_the_followers_outputs_are_the_second_round(place, tmp_path):
    one, _ = contestants.resolve("x", str(place / "stackelberg_gda"))
    out = tmp_path / "out.json"
    arguments = [str(place / "stackelberg_gda"), "--to", "alpaca_eval", "--prompts", str(place / "prompts.jsonl")]
    assert export.main([*arguments, "--role", "follower", "--name", "mine", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    policy = one.load()
    seed = exporting.derive_seed(0, "alpaca_eval", 0)
    prompts = [row["instruction"] for row in rows]
    assert sorted(prompts) == sorted(PROMPTS)
    rounds = exporting.refine(policy, exporting.sampler(policy), prompts, 2, 3, seed)
    assert [row["output"] for row in rows] == rounds[1]
    assert {(row["generator"], row["dataset"]) for row in rows} == {("mine", "slhf")}


@pytest.mark.parametrize("inside", ["", "checkpoint-000003", "checkpoint-000003/adapter"])
def test_the_generator_is_named_after_the_run(place, tmp_path, monkeypatch, inside):
    monkeypatch.chdir(place / "rloo" / inside)
    prompts = ("--prompts", str(place / "prompts.jsonl"))
    assert export.main([".", "--to", "alpaca_eval", *prompts, "--out", str(tmp_path / "out.json")]) == 0
    assert {row["generator"] for row in json.loads((tmp_path / "out.json").read_text())} == {"rloo leader"}
    assert export.title_of("owner/model") == "model"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--to", "lm_eval", "--role", "follower"), "--role leader"),
        (("--to", "lm_eval", "--prompts", "embedded", "--split", "train"), "--prompts, --split: only with --to alpaca"),
        (("--to", "lm_eval", "--name", "x", "--temperature", "1"), "--name, --temperature: only with --to alpaca_eval"),
        (("--to", "lm_eval", "--seed", "0", "--max-new-tokens", "3"), "--max-new-tokens, --seed: only with"),
        (("--to", "alpaca_eval", "--prompts", "alpaca.json", "--split", "train"), "alpaca.json is AlpacaEval's"),
        (("--to", "alpaca_eval", "--prompts", "nowhere.json"), "nowhere.json"),
        (("--to", "alpaca_eval", "--prompts", "alpaca.json"), 'alpaca.json, row 1: "instruction" is empty'),
        (("--to", "alpaca_eval", "--prompts", "package.json"), 'package.json needs a column "prompt"'),
    ],
)
def test_an_export_that_cannot_be_is_one_line(place, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package.json").write_text('[{"name": "x"}]')
    (tmp_path / "alpaca.json").write_text('[{"dataset": "x", "instruction": " "}]')
    assert export.main([str(place / "rloo"), "--out", "out", *more]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
