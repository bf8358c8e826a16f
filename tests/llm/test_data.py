"""Prompts and preferences from real files, made to the schemas of the hub's data sets."""

import copy
import gzip
import json
import logging
import pickle
from collections import Counter

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import Comparison, PreferenceConfig, PromptConfig, batch_at, load_preferences, load_prompts
from llm.data import sources as sources_module
from llm.data.prompts import EMBEDDED, Prompt, conversation, described, identity, prompt_of
from llm.data.selection import DataConfig, Tally, select
from slhf.errors import InvalidData, InvalidParameter, MissingResource

QUESTIONS = [f"Question {i}?" for i in range(40)]


@pytest.fixture(autouse=True)
def _no_network_and_a_cache_of_our_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("llm.data.selection._REPORTED", set())


def jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def both(config):
    """The training and the held-out part."""
    load = load_prompts if isinstance(config, PromptConfig) else load_preferences
    return load(config, "train"), load(config, "heldout")


def all_of(config, attribute="preference"):
    train, heldout = both(config)
    return train[attribute] + heldout[attribute]


def test_the_embedded_prompts():
    train, heldout = load_prompts("embedded", "train"), load_prompts("embedded", "heldout")
    rows = [json.loads(line) for line in EMBEDDED.read_text().splitlines()]
    assert train == [row["prompt"] for row in rows if row["split"] == "train"]
    assert heldout == [row["prompt"] for row in rows if row["split"] == "heldout"]
    assert len(rows) == len(set(train + heldout)) >= 200
    assert len(heldout) >= 64
    assert len(Counter(row["topic"] for row in rows)) >= 10


def test_an_epoch_sees_every_prompt_once_and_epochs_differ():
    prompts = [str(i) for i in range(10)]
    seen = [x for step in range(5) for x in batch_at(prompts, 4, step, seed=0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(prompts)
    assert seen[:10] != seen[10:]
    assert batch_at(prompts, 4, 3, seed=0) == seen[12:16]
    assert batch_at(prompts, 4, 0, seed=1) != seen[:4]


# --- prompts


def test_prompts_of_a_file_keep_its_split_whatever_its_format(tmp_path):
    rows = [{"prompt": f"Say {i}, please", "split": "heldout" if i % 3 == 0 else "train"} for i in range(12)]
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(tmp_path / "a.parquet")
    data.to_csv(tmp_path / "a.csv")
    paths = [jsonl(tmp_path / "a.jsonl", rows), str(tmp_path / "a.parquet"), str(tmp_path / "a.csv")]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes(), mtime=0))
    results = [both(PromptConfig(path)) for path in [*paths, str(tmp_path / "b.jsonl.gz")]]
    assert all(result == results[0] for result in results)
    assert sorted(results[0][1]) == sorted(row["prompt"] for row in rows if row["split"] == "heldout")
    assert len(results[0][0]) == 8


def test_a_csv_may_hold_words_that_look_like_something_else(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,split\nNA,train\n12,train\nx,heldout\n")
    assert sorted(load_prompts(str(path), "train")) == ["12", "NA"]


def test_prompts_of_conversations_are_single_turns_and_what_is_left_out_is_said(tmp_path, caplog):
    rows = [
        {"messages": [user("one")], "split": "train"},
        {"messages": [user("hi"), assistant("hello"), user("and?")], "split": "train"},
        {"messages": [{"role": "system", "content": "be kind"}, user("x")], "split": "train"},
        {"messages": [user("one")], "split": "train"},
        {"messages": [user(" ")], "split": "train"},
        {"messages": [user("leaks")], "split": "train"},
        {"messages": [user("leaks")], "split": "heldout"},
        {"messages": [user("much too long")], "split": "heldout"},
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        assert both(PromptConfig(path, max_characters=8)) == (["one", Prompt("x", "be kind")], ["leaks"])
    (record,) = caplog.records  # once, though two splits were loaded
    assert "8 rows" in record.getMessage()
    for part in (
        f"1 of more than the user's single turn (first: {path}, line 2)",
        f"1 repeating a prompt (first: {path}, line 4)",
        f"1 with an empty prompt (first: {path}, line 5)",
        "1 of more than 8 characters",
        "1 for training whose prompt is also held out",
        "used: 2 train, 1 heldout",
    ):
        assert part in record.getMessage()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 3: not JSON"),
        ('{"split": "train"}', 'line 3: "prompt" must be a text or a list of messages, not None'),
        ('{"prompt": 3, "split": "train"}', 'line 3: "prompt" must be a text or a list of messages, not 3'),
        ('{"prompt": ["x"], "split": "train"}', 'line 3: "prompt" must be a list of messages'),
        ('{"prompt": "x"}', 'line 3: "split" must be a text, not None'),
        ('{"prompt": "x", "split": "dev"}', "line 3: \"split\" is 'dev'; it must be one of"),
        ("[1]", "line 3: not a JSON object, but \\[1\\]"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = jsonl(tmp_path / "prompts.jsonl", [{"prompt": "x", "split": "train"}, "", line])
    with pytest.raises(InvalidData, match=message):
        load_prompts(path, "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user("x"), *[assistant("y")] * 2]}, 'line 2: "messages" must end with the user\'s turn'),
        ({"messages": []}, 'line 2: "messages" must end with the user\'s turn'),
        ({"messages": [{"role": "user"}]}, 'line 2: "messages" must be a list of messages'),
        ({"messages": [{"role": "user", "content": 3}]}, 'line 2: "messages" must be a list of messages'),
        ({"messages": "x"}, 'line 2: "messages" must be a list of messages'),
        ({}, 'line 2: "messages" must be a list of messages'),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, row, message):
    path = jsonl(tmp_path / "prompts.jsonl", [{"messages": [user("x")]}, row])
    with pytest.raises(InvalidData, match=message):
        load_prompts(path, "train")


def test_files_that_cannot_be_used_say_why(tmp_path):
    def refused(name, content, message):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidData, match=message):
            load_prompts(str(path), "train")

    refused("none.jsonl", None, "There is no file")
    refused("empty.jsonl", b"", "empty.jsonl is empty")
    refused("blank.jsonl", b"\n\n", "blank.jsonl is empty")
    refused("a.doc", b"x", "suffix must be one of .jsonl, .json, .csv, .tsv, .txt, .parquet")
    refused("latin.jsonl", b'{"prompt": "\xff"}\n', "latin.jsonl: line 1: byte 12 .* not text in UTF-8")
    refused("half.jsonl.gz", gzip.compress(b'{"prompt": "x"}', mtime=0)[:-9], "compressed with gzip and damaged")
    refused("bad.parquet", b"xxx", "bad.parquet cannot be read as .parquet")
    refused("bad.csv", b"prompt,split\nx,train\ny,train,more\n", "line 3: 3 fields, but the header has 2; put texts")
    refused("open.csv", b'prompt,split\nx,train\n"y,train\n', "open.csv, line 3: unexpected end of data")
    refused("twice.csv", b"prompt,prompt\nx,y\n", 'line 1: two columns are called "prompt"')
    refused("header.csv", b"prompt,split\n", "header.csv is empty")
    refused("one.json", b'{\n"prompt": "x"}', "line 1: not JSON .* Give one object a line, or one array of objects")
    refused("cut.json", b'[{"prompt": "x"},\n{"prompt":', "cut.json, line 2: not JSON")
    refused("mixed.json", b'[{"prompt": "x"}, 3]', "mixed.json, row 2: not a JSON object, but 3")
    refused("deep.jsonl", b'{"prompt": ' + b"[" * 100_000, "line 1: not JSON")
    refused("columns.jsonl", b'{"text": "x"}\n', 'needs a column "prompt", .* or "chosen"; its columns are text')
    refused("side.jsonl", b'{"prompt": "x", "split": "heldout"}\n', "no prompt of the split 'train'")


def test_a_name_that_is_nothing_and_a_hub_out_of_reach(tmp_path):
    with pytest.raises(InvalidData, match="did you mean helpsteer2"):
        load_prompts("helpsteer", "train")
    with pytest.raises(InvalidData, match="of presets valid are helpsteer2, ultrafeedback, tulu3, hh"):
        load_prompts("xyz", "train")
    with pytest.raises(MissingResource, match=r"'helpsteer2'.*local file.*load_dataset\('nvidia/HelpSteer2', data_dir"):
        load_prompts("helpsteer2", "train")


@pytest.mark.parametrize("wrong", [{"heldout_share": 0.0}, {"heldout_share": 1.0}, {"limit": 0}, {"max_characters": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        PromptConfig(**wrong)


# --- splits and order

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)


@given(st.lists(TEXTS, max_size=30), st.randoms(use_true_random=False), st.floats(0.05, 0.95))
def test_the_split_depends_on_the_prompt_alone(prompts, random, share):
    """Not on the order of the rows, their number or their neighbours; and no prompt is on both sides."""

    def split(rows):
        config, tally = DataConfig("x", heldout_share=share), Tally("x")
        return select([(None, row) for row in rows], prompt=str, length=len, config=config, tally=tally)

    found = split(prompts)
    shuffled = list(prompts)
    random.shuffle(shuffled)
    assert split(shuffled) == found
    assert not {row.strip() for row in found["train"]} & {row.strip() for row in found["heldout"]}
    assert sorted(found["train"] + found["heldout"]) == sorted(prompts)
    for side, rows in split(prompts[: len(prompts) // 2]).items():
        assert set(rows) <= set(found[side])


def test_white_space_around_a_prompt_makes_no_other_prompt(tmp_path):
    prompts = [f"{before}Say {i}{after}" for i in range(40) for before, after in (("", ""), ("", "\n"), (" ", " "))]
    found = both(PromptConfig(jsonl(tmp_path / "a.jsonl", [{"prompt": text} for text in prompts]), heldout_share=0.5))
    assert sorted(found[0] + found[1]) == sorted(prompts[::3])
    rows = [{"prompt": text, "chosen": "good", "rejected": "bad"} for text in prompts]
    train, heldout = both(PreferenceConfig(jsonl(tmp_path / "b.jsonl", rows), heldout_share=0.5))
    sides = [{c.conversation[0]["content"].strip() for c in part["preference"]} for part in (train, heldout)]
    assert len(sides[0]) + len(sides[1]) == 40
    assert not sides[0] & sides[1]


def test_the_share_that_is_held_out_is_the_one_asked_for(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": f"number {i}"} for i in range(2000)])
    for share in (0.05, 0.2):
        train, heldout = both(PromptConfig(path, heldout_share=share))
        assert len(train) + len(heldout) == 2000
        assert abs(len(heldout) / 2000 - share) < 0.02


def test_a_limit_takes_a_sample_that_grows(tmp_path):
    """Of a file sorted by topic the first rows would be one topic; and a larger limit adds to a smaller one."""
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": f"{'cooking' if i < 500 else 'law'} {i}"} for i in range(1000)])
    small, large = (load_prompts(PromptConfig(path, limit=n), "train") for n in (50, 100))
    assert large[:50] == small
    assert 10 < sum(text.startswith("law") for text in small) < 40


# --- preferences


def hh(question, answer, before=""):
    return f"{before}\n\nHuman: {question}\n\nAssistant: {answer}"


def test_transcripts_of_hh(tmp_path):
    """Of the form of Anthropic/hh-rlhf: whole dialogues that differ in the last answer."""
    rows = [{"chosen": hh(q, "Yes."), "rejected": hh(q, "No.")} for q in QUESTIONS]
    earlier = hh("First?", "One.\n\nTwo.")
    rows.append({"chosen": hh("Second?", "A", earlier), "rejected": hh("Second?", "B", earlier)})
    found = all_of(PreferenceConfig(jsonl(tmp_path / "train.jsonl", rows)))
    assert len(found) == 41
    assert Comparison((user("Question 7?"),), "Yes.", "No.") in found
    assert Comparison((user("First?"), assistant("One.\n\nTwo."), user("Second?")), "A", "B") in found


def test_the_same_preferences_as_texts_messages_and_beginnings(tmp_path):
    """{prompt, chosen, rejected} as texts, as messages (whole, or the answers alone), or as pieces of a transcript."""
    forms = [
        [{"prompt": q, "chosen": "good", "rejected": "bad"} for q in QUESTIONS],
        [
            {"prompt": q, "chosen": [user(q), assistant("good")], "rejected": [user(q), assistant("bad")]}
            for q in QUESTIONS
        ],
        [{"prompt": [user(q)], "chosen": [assistant("good")], "rejected": [assistant("bad")]} for q in QUESTIONS],
        [{"prompt": q, "chosen": [assistant("good")], "rejected": [assistant("bad")]} for q in QUESTIONS],
        [{"prompt": f"\n\nHuman: {q}\n\nAssistant:", "chosen": " good", "rejected": " bad"} for q in QUESTIONS],
        [
            {
                "prompt": f"\n\nHuman: {q}\n\nAssistant:",
                "chosen": [assistant("good")],
                "rejected": [assistant("bad")],
            }
            for q in QUESTIONS
        ],
    ]
    results = [both(PreferenceConfig(jsonl(tmp_path / f"{i}.jsonl", rows))) for i, rows in enumerate(forms)]
    assert all(result == results[0] for result in results)
    assert results[0][0]["preference"][0].chosen == "good"
    prompts = [both(PromptConfig(str(tmp_path / f"{i}.jsonl"))) for i in range(len(forms))]
    assert all(result == prompts[0] for result in prompts)
    assert [[c.conversation[0]["content"] for c in part["preference"]] for part in results[0]] == list(prompts[0])


def test_ultrafeedback_from_a_repository_with_its_splits(tmp_path):
    """HuggingFaceH4/ultrafeedback_binarized: splits *_prefs beside others, whole conversations, scores that may tie."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    names = ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen")
    for name in names:
        rows = [
            {
                "prompt": f"{name} {i}",
                "prompt_id": str(i),
                "chosen": [user(f"{name} {i}"), assistant("good")],
                "rejected": [user(f"{name} {i}"), assistant("bad")],
                "messages": [user(f"{name} {i}"), assistant("good")],
                "score_chosen": 8.0,
                "score_rejected": 8.0 if i == 3 else 5.5,
            }
            for i in range(6)
        ]
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    files = "".join(f"  - split: {name}\n    path: data/{name}-*\n" for name in names)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    train, heldout = both(PreferenceConfig(str(folder)))
    assert {c.conversation[0]["content"] for c in train["preference"]} == {f"train_prefs {i}" for i in (0, 1, 2, 4, 5)}
    assert len(heldout["preference"]) == 5
    assert sorted(load_prompts(str(folder), "heldout")) == [f"test_prefs {i}" for i in range(6)]


def test_tulu_has_one_split_which_is_divided_by_prompt(tmp_path):
    """allenai/llama-3.1-tulu-3-8b-preference-mixture: several comparisons of a prompt stay together."""
    rows = [
        {
            "id": f"{i}-{j}",
            "prompt": q,
            "chosen": [user(q), assistant(f"good {j}")],
            "rejected": [user(q), assistant("bad")],
            "source": "ai2-adapt-dev/x",
        }
        for i, q in enumerate(QUESTIONS)
        for j in range(3)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train-00000.parquet")
    train, heldout = both(PreferenceConfig(str(tmp_path / "train-00000.parquet"), heldout_share=0.3))
    openings = [{c.conversation[0]["content"] for c in part["preference"]} for part in (train, heldout)]
    assert not openings[0] & openings[1]
    assert len(train["preference"]) + len(heldout["preference"]) == 120
    assert len(openings[1]) >= 2


def rated(prompt, response, helpfulness, correctness, coherence, complexity, verbosity):
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    ratings = (helpfulness, correctness, coherence, complexity, verbosity)
    return {"prompt": prompt, "response": response, **dict(zip(names, ratings, strict=True))}


def test_helpsteer2_by_the_papers_recipe(tmp_path):
    """nvidia/HelpSteer2/disagreements: ratings by annotator; mean, then the lower deviation, then two turned round."""
    rows = [
        #              mean decides  deviation     nothing        more complex   equally verbose, surer
        rated("q", "a", [4, 4, 3], [2, 2, 2], [3, 3, 4], [3, 3, 3], [2, 2, 2]),
        rated("q", "b", [3, 3], [1, 2, 3], [4, 3, 3], [2, 2, 3], [1, 2, 3]),
    ]
    path = jsonl(tmp_path / "disagreements.jsonl", [{**row, "split": "train"} for row in rows])
    found = load_preferences(PreferenceConfig(path), "train")
    winners = {name: [c.chosen for c in comparisons] for name, comparisons in found.items()}
    assert winners == {
        "helpfulness": ["a"],
        "correctness": ["a"],
        "coherence": [],
        "complexity": ["b"],
        "verbosity": ["b"],
    }
    coin = load_preferences(PreferenceConfig(path, ties="coin"), "train")["coherence"]
    assert len(coin) == 1
    assert coin == load_preferences(PreferenceConfig(path, ties="coin"), "train")["coherence"]


def test_the_coin_is_fair_and_does_not_favour_the_first_response(tmp_path):
    same = ([2, 2],) * 5
    rows = [rated(f"q{i}", name, *same) for i in range(300) for name in ("first", "second")]
    found = all_of(PreferenceConfig(jsonl(tmp_path / "a.jsonl", rows), ties="coin"), "coherence")
    assert len(found) == 300
    assert 120 < sum(c.chosen == "first" for c in found) < 180


def test_helpsteer2_with_several_turns_rounded_ratings_and_a_lonely_response(tmp_path, caplog):
    prompt = "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nWhy?"
    rows = [
        rated("alone", "x", 1, 1, 1, 1, 1),
        rated(prompt, "a", 4, 3, 3, 2, 2),
        rated(prompt, "b", 3, 4, 3, 2, 1),
        rated("single", "c", 4, 3, 3, 2, 2),
        rated("single", "d", 3, 4, 3, 2, 1),
    ]
    path = jsonl(tmp_path / "validation.jsonl", [{**row, "split": "train"} for row in rows])
    found = load_preferences(PreferenceConfig(path), "train")
    conversation = (user("Hi"), assistant("Hello."), user("Why?"))
    assert Comparison(conversation, "a", "b") in found["helpfulness"]
    assert Comparison(conversation, "b", "a") in found["correctness"]
    assert len(found["verbosity"]) == 2
    assert "1 without a second response (first: " in caplog.text
    assert "line 1)" in caplog.text
    assert "2 tied in coherence" in caplog.text
    assert sorted(load_prompts(path, "train")) == ["alone", "single"]


def test_what_is_no_comparison_is_left_out_and_said(tmp_path, caplog):
    rows = [
        {"chosen": hh("q", "a"), "rejected": hh("q", "b")},
        {"chosen": hh("q", "a"), "rejected": hh("q", "a")},
        {"chosen": hh("q", "a"), "rejected": hh("q", " ")},
        {"chosen": hh("q", "a"), "rejected": hh("other", "b")},
        {"chosen": "\n\nHuman: q", "rejected": hh("q", "b")},
        {"chosen": hh("q", "a" * 50), "rejected": hh("q", "b")},
    ]
    path = jsonl(tmp_path / "a.jsonl", [{**row, "split": "train"} for row in rows])
    found = load_preferences(PreferenceConfig(path, max_characters=50), "train")["preference"]
    assert found == [Comparison((user("q"),), "a", "b")]
    for part in ("answers are the same (first", "line 2)", "empty answer", "differ before", "do not end", "than 50"):
        assert part in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "hello", "rejected": hh("q", "b")}, 'line 2: "chosen" is not a transcript'),
        ({"chosen": hh("q", "a")}, 'line 2: "rejected" must be a text or a list of messages, not None'),
        ({"chosen": hh("q", "a"), "rejected": 3}, 'line 2: "rejected" must be a text or a list of messages, not 3'),
    ],
)
def test_a_bad_preference_is_named(tmp_path, row, message):
    path = jsonl(tmp_path / "a.jsonl", [{"chosen": hh("q", "a"), "rejected": hh("q", "b")}, row])
    with pytest.raises(InvalidData, match=message):
        load_preferences(PreferenceConfig(path), "train")


@pytest.mark.parametrize("value", [None, [], [1, None], "good"])
def test_a_bad_rating_is_named(tmp_path, value):
    rows = [rated("q", "a", *[[1, 2]] * 5), {**rated("q", "b", *[[1, 2]] * 5), "coherence": value}]
    with pytest.raises(InvalidData, match='line 2: "coherence" must be a rating'):
        load_preferences(PreferenceConfig(jsonl(tmp_path / "a.jsonl", rows)), "train")


def test_columns_that_are_missing_and_a_rule_for_ties_that_is_unknown(tmp_path):
    with pytest.raises(InvalidData, match=r'needs columns "chosen" and "rejected".*its columns are prompt'):
        load_preferences(PreferenceConfig(jsonl(tmp_path / "a.jsonl", [{"prompt": "x"}])), "train")
    with pytest.raises(InvalidParameter, match="ties"):
        PreferenceConfig("x", ties="half")


def test_a_repository_without_a_known_split(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: odd\n    path: a.jsonl\n---\n"
    )
    jsonl(folder / "a.jsonl", [{"prompt": "x"}])
    with pytest.raises(InvalidData, match="has the splits odd"):
        load_prompts(str(folder), "train")


def test_every_preset_is_an_id_on_the_hub():
    assert set(sources_module.PRESETS) == {"helpsteer2", "ultrafeedback", "tulu3", "hh"}
    assert all(len(source.split("/")) >= 2 for source in sources_module.PRESETS.values())


def test_a_run_is_named_by_the_texts_of_a_file_too(tmp_path):
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for file, last in ((path, "x"), (other, "y")):
        rows = [{"prompt": prompt, "split": "train"} for prompt in ("one", last)] + [
            {"prompt": "h", "split": "heldout"}
        ]
        file.write_text("\n".join(map(json.dumps, rows)))
    first, second = (identity(PromptConfig(str(file))) for file in (path, other))
    assert first["content"] != second["content"]
    assert "content" not in identity(PromptConfig())


# --- the forms of real files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "Öl?"}\n{"prompt": "a\u2028b"}\n'),
        ("a.json", '[{"prompt": "Öl?"}, {"prompt": "a\u2028b"}]'),
        ("texts.json", '["Öl?", "a\u2028b"]'),
        ("a.csv", "prompt\nÖl?\na\u2028b\n"),
        ("semicolons.csv", 'prompt;split\nÖl?;train\n"a\u2028b";heldout\n'),
        ("a.tsv", "prompt\tsplit\r\nÖl?\ttrain\r\na\u2028b\theldout\r\n"),
        ("a.txt", "Öl?\n\na\u2028b\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_mark_at_the_start_and_odd_line_ends_are_no_part_of_a_prompt(tmp_path, name, text, encoding):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    (table,) = sources_module.open_source(str(path))
    assert table.texts("prompt") == ["Öl?", "a\u2028b"]


def test_a_csv_names_the_line_of_a_text_of_several_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,split\n"two\nlines",train\nx,train\ny\n')
    with pytest.raises(InvalidData, match="line 5: 1 fields, but the header has 2"):
        load_prompts(str(path), "train")
    path.write_text('prompt,split\n"two\nlines, with a comma",train\ny,heldout\n')
    assert both(PromptConfig(str(path))) == (["two\nlines, with a comma"], ["y"])


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.jsonl", '{"prompt": "fine"}\n{"prompt": "cut \\ud83d"}\n', "line 2"),
        (
            "a.json",
            '[{"prompt": "\\ud83d\\ude00"},\n{"messages": [{"role": "user", "content": "cut \\uDE00"}]}]',
            "row 2",
        ),
    ],
)
def test_half_a_character_is_named(tmp_path, name, text, place):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidData, match=place + r": \\ud(83d|e00) is half a character"):
        load_prompts(str(tmp_path / name), "train")


def test_a_whole_pair_of_surrogates_is_a_character(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ['{"prompt": "\\ud83d\\ude00", "split": "train"}'])
    assert load_prompts(path, "train") == ["😀"]


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "system": "Be brief."},
        {"instruction": "Why?", "system_prompt": "Be brief."},
        {"question": "Why?", "system": " Be brief. "},
        {"messages": [SYSTEM, user("Why?")]},
        {"messages": [SYSTEM, user("Why?"), assistant("So.")]},
        {"prompt": [SYSTEM, user("Why?")], "system": "Be brief."},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}], "system": "Be brief."},
        {"prompt": "\n\nHuman: Why?\n\nAssistant:", "system": "Be brief."},
        {"prompt": "Human: Why?\n\nAssistant:", "system": "Be brief."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "system": "Be brief."},
    ],
)
def test_prompt_and_preference_are_read_by_one_rule_with_the_system_message(tmp_path, row):
    path = jsonl(tmp_path / "a.jsonl", [{**row, "split": "train"}])
    (prompt,) = load_prompts(path, "train")
    assert conversation(prompt) == [SYSTEM, user("Why?")]
    assert prompt != "Why?"
    chosen = {"chosen": "Yes.", "rejected": "No."}
    if "chosen" in row:
        chosen = {side: f"\n\nHuman: Why?\n\nAssistant: {text}" for side, text in chosen.items()}
    path = jsonl(tmp_path / "b.jsonl", [{**row, **chosen, "split": "train"}])
    (comparison,) = load_preferences(PreferenceConfig(path), "train")["preference"]
    assert comparison == Comparison((SYSTEM, user("Why?")), "Yes.", "No.")


def test_a_prompt_is_its_text_and_its_system_message():
    one, other = Prompt("Why?", "Be brief."), Prompt("Why?", "Be kind.")
    assert len({one, other, "Why?", Prompt("Why?", "Be brief.")}) == 3
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert prompt_of(conversation(one)) == one
    assert prompt_of(described(["Why?"])[0]) == "Why?"


def test_a_run_is_named_by_the_system_messages_too(tmp_path):
    names = set()
    for system in ("Be brief.", "Be kind.", None):
        rows = [{"prompt": "a", "split": "train", "system": system}, {"prompt": "b", "split": "heldout"}]
        config = PromptConfig(jsonl(tmp_path / "a.jsonl", rows))
        identity.cache_clear()
        names.add(identity(config)["content"])
    assert len(names) == 3


def test_a_plain_prompt_may_begin_with_human(tmp_path):
    rows = [{"prompt": f"Human: {q}", "chosen": "good", "rejected": "bad"} for q in QUESTIONS]
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert len(all_of(PreferenceConfig(path))) == len(QUESTIONS)
    train, heldout = both(PromptConfig(path))
    assert sorted(train + heldout) == sorted(row["prompt"] for row in rows)


def test_a_transcript_without_its_last_mark_and_a_whole_one_beside_its_prompt(tmp_path):
    begun = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    rows = [
        {"prompt": begun, "chosen": "good", "rejected": "bad"},
        {"prompt": begun, "chosen": "\n\nAssistant: good", "rejected": "\n\nAssistant: bad"},
        {"prompt": begun + "\n\nAssistant:", "chosen": " good", "rejected": " bad"},
        {"prompt": begun, **{k: f"{begun}\n\nAssistant: {v}" for k, v in (("chosen", "good"), ("rejected", "bad"))}},
        {"prompt": [user("a"), assistant("b"), user("c")], "chosen": "good", "rejected": "bad"},
    ]
    path = jsonl(tmp_path / "a.jsonl", [{**row, "split": "train"} for row in rows])
    expected = Comparison((user("a"), assistant("b"), user("c")), "good", "bad")
    assert load_preferences(PreferenceConfig(path), "train")["preference"] == [expected] * 5


def test_columns_that_are_not_read_and_change_the_meaning_are_reported(tmp_path, caplog):
    rows = [
        {"question": "Where?", "context": "It is in Rome.", "split": "train"},
        {"question": "Why?", "split": "train"},
    ]
    assert len(load_prompts(jsonl(tmp_path / "a.jsonl", rows), "train")) == 2
    assert 'not read, though it can change what a prompt means: column "context" of 1 rows' in caplog.text


def test_an_instruction_in_alpacas_format_keeps_its_input(tmp_path):
    rows = [{"instruction": "Shorten.", "input": text, "output": "-", "split": "train"} for text in ("A b c.", "")]
    assert sorted(load_prompts(jsonl(tmp_path / "a.jsonl", rows), "train")) == ["Shorten.", "Shorten.\n\nA b c."]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([user("x"), CALL, user("y")], "with tool calls or a message without text"),
        ([user("x"), {"role": "assistant", "content": ""} | CALL], "with tool calls or a message without text"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "with content in parts"),
        ([user("x"), {"role": "tool", "content": "4"}], "with turns of other roles than system, user and assistant"),
        ([SYSTEM, SYSTEM, user("x")], "of more than the user's single turn"),
    ],
)
def test_messages_that_hold_more_than_texts_are_left_out_and_the_load_goes_on(tmp_path, caplog, turns, reason):
    path = jsonl(tmp_path / "a.jsonl", [{"messages": m, "split": "train"} for m in (turns, [user("fine")])])
    assert load_prompts(path, "train") == ["fine"]
    assert f"1 {reason} (first: {path}, line 1)" in caplog.text


def test_preferences_with_tool_calls_are_left_out_too(tmp_path, caplog):
    good = {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")], "split": "train"}
    bad = {**good, "chosen": [user("q"), CALL]}
    path = jsonl(tmp_path / "a.jsonl", [bad, good])
    assert len(load_preferences(PreferenceConfig(path), "train")["preference"]) == 1
    assert "1 with tool calls" in caplog.text


def test_two_system_messages_are_not_chosen_between(tmp_path, caplog):
    rows = [{"messages": [SYSTEM, user("x")], "system": "Be kind."}, {"messages": [user("y")]}]
    path = jsonl(tmp_path / "a.jsonl", [{**row, "split": "train"} for row in rows])
    assert load_prompts(path, "train") == ["y"]
    assert "1 with two different system messages" in caplog.text


def test_helpsteer3_by_the_sign_of_its_preference(tmp_path, caplog):
    """nvidia/HelpSteer3: from -3, the first response is much better, to 3, the second is."""
    rows = [
        {"context": [user(f"q{value}")], "response1": "one", "response2": "two", "overall_preference": value}
        for value in (-3, 0, 1)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{**row, "split": "train"} for row in rows]))
    found = load_preferences(PreferenceConfig(str(path)), "train")["preference"]
    assert {(c.conversation[0]["content"], c.chosen) for c in found} == {("q-3", "one"), ("q1", "two")}
    assert "1 tied in preference" in caplog.text
    assert sorted(load_prompts(str(path), "train")) == ["q-3", "q0", "q1"]
    path.write_text(json.dumps([{**rows[0], "overall_preference": "much"}]))
    with pytest.raises(InvalidData, match="row 1: \"overall_preference\" must be a number, not 'much'"):
        load_preferences(PreferenceConfig(str(path)), "train")


@pytest.mark.parametrize("nested", [True, False])
def test_answers_with_ranks_are_all_their_pairs(tmp_path, nested):
    """berkeley-nest/Nectar: the best answer has rank 1; equal ranks are ties."""
    texts, ranks = ["c", "a", "b", "also b"], [3, 0, 2, 2]
    answers = [{"answer": text, "rank": rank} for text, rank in zip(texts, ranks, strict=True)]
    row = {"answers": answers} if nested else {"answers": texts, "ranks": ranks}
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "\n\nHuman: q\n\nAssistant: ", "split": "train", **row}])
    found = load_preferences(PreferenceConfig(path), "train")["preference"]
    pairs = {(c.chosen, c.rejected) for c in found}
    assert pairs == {("a", "b"), ("a", "also b"), ("a", "c"), ("b", "c"), ("also b", "c")}
    assert all(c.conversation == (user("q"),) for c in found)
    path = jsonl(tmp_path / "b.jsonl", [{"prompt": "q", "answers": ["a", "b"]}])
    with pytest.raises(InvalidData, match='line 1: "answers" must be a list of objects with "answer" and "rank"'):
        load_preferences(PreferenceConfig(path), "train")


def test_preferences_of_a_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected,score_chosen,score_rejected,split\nq,NA,bad,2,1,train\nr,x,y,1,1.0,train\n")
    assert load_preferences(PreferenceConfig(str(path)), "train")["preference"] == [
        Comparison((user("q"),), "NA", "bad")
    ]


def test_the_advice_on_the_share_is_the_right_way_round(tmp_path):
    one = jsonl(tmp_path / "one.jsonl", [{"prompt": "x"}])
    for split in ("train", "heldout"):
        config = PromptConfig(one, heldout_share=0.99 if split == "train" else 0.01)
        with pytest.raises(InvalidData, match="one prompt alone is either for training or held out, so give more"):
            load_prompts(config, split)
    many = jsonl(tmp_path / "many.jsonl", [{"prompt": f"{i}"} for i in range(5)])
    with pytest.raises(InvalidData, match="give a larger heldout_share"):
        load_prompts(PromptConfig(many, heldout_share=0.001), "heldout")
    with pytest.raises(InvalidData, match="give a smaller heldout_share"):
        load_prompts(PromptConfig(many, heldout_share=0.999), "train")
