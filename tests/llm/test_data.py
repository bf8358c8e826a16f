import json
from collections import Counter

import pytest

from llm.data import EMBEDDED, batch_at, load_prompts
from slhf.errors import InvalidData


def test_the_embedded_prompts():
    train, heldout = load_prompts("embedded", "train"), load_prompts("embedded", "heldout")
    assert len(train) + len(heldout) >= 200
    assert len(heldout) >= 64
    assert len(set(train + heldout)) == len(train) + len(heldout)
    topics = Counter(json.loads(line)["topic"] for line in EMBEDDED.read_text().splitlines())
    assert len(topics) >= 10


def test_an_epoch_sees_every_prompt_once_and_epochs_differ():
    prompts = [str(i) for i in range(10)]
    seen = [x for step in range(5) for x in batch_at(prompts, 4, step, seed=0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(prompts)
    assert seen[:10] != seen[10:]
    assert batch_at(prompts, 4, 3, seed=0) == seen[12:16]
    assert batch_at(prompts, 4, 0, seed=1) != seen[:4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: not JSON"),
        ('{"split": "train"}', 'line 2: needs a non-empty string field "prompt"'),
        ('{"prompt": " ", "split": "train"}', 'line 2: needs a non-empty string field "prompt"'),
        ('{"prompt": "x"}', 'line 2: needs a non-empty string field "split"'),
        ('{"prompt": "x", "split": "test"}', "line 2: \"split\" is 'test'"),
        ("[1]", 'line 2: needs a non-empty string field "prompt"'),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "split": "train"}\n' + line + "\n")
    with pytest.raises(InvalidData, match=message):
        load_prompts(str(path), "train")


def test_a_missing_file_and_an_empty_split(tmp_path):
    with pytest.raises(InvalidData, match="no prompt file"):
        load_prompts(str(tmp_path / "none.jsonl"), "train")
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "split": "train"}\n')
    with pytest.raises(InvalidData, match="no prompt of the split 'heldout'"):
        load_prompts(str(path), "heldout")
