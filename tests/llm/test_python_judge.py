"""A judge in a file of the user's: functions, objects, what they may be asked for, and how their mistakes are told."""

import sys

import numpy as np
import pytest

from llm.judges import FeatureJudge, RewardJudge, ask, ask_features, ask_reward
from llm.judges.config import PythonJudgeConfig, identity
from llm.judges.loading import load_judge
from slhf.errors import ConfigError, JudgeError, MissingResource

SHORTER = """
import numpy as np

def prefer(prompts, a, b):
    return [0.5 + 0.5 * np.sign(len(y) - len(x)) for x, y in zip(a, b)]

class Full:
    feature_names = ("length", "words")

    def prefer(self, prompts, a, b):
        return prefer(prompts, a, b)

    def features(self, prompts, answers):
        return [[len(y), len(y.split())] for y in answers]

class Rewarding(Full):
    features = None

    def reward(self, prompts, answers):
        return [-len(y) for y in answers]

ready = Rewarding()
"""


def judge(tmp_path, source=SHORTER, name="prefer"):
    path = tmp_path / "my_judge.py"
    path.write_text(source)
    return load_judge(PythonJudgeConfig(f"{path}:{name}"), "cpu")


def test_a_function_a_class_and_an_object_judge(tmp_path):
    before = list(sys.path)
    for number, name in enumerate(("prefer", "Full", "Rewarding", "ready")):
        (tmp_path / str(number)).mkdir()
        mine = judge(tmp_path / str(number), name=name)
        assert ask(mine, ["x"] * 3, ["a", "aaa", "b"], ["aa", "a", "c"]).tolist() == [1, 0, 0.5]
        assert isinstance(mine, FeatureJudge) == (name == "Full")
        assert isinstance(mine, RewardJudge) == (name in ("Rewarding", "ready"))
        rewards = PythonJudgeConfig(f"{tmp_path / str(number) / 'my_judge.py'}:{name}").rewards
        assert rewards == (name != "prefer")
        if name == "Full":
            assert ask_features(mine, ["x"], ["a bc"]).tolist() == [[4, 2]]
        elif name != "prefer":
            assert ask_reward(mine, ["x"], ["abc"]).tolist() == [-3]
    assert sys.path == before
    assert "my_judge" not in sys.modules
    assert not list(tmp_path.rglob("__pycache__"))


def test_its_identity_is_what_the_file_says_and_not_where_it_lies(tmp_path):
    found = []
    for folder, source in (("a", SHORTER), ("b", SHORTER), ("c", SHORTER + "# changed\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my_judge.py").write_text(source)
        found.append(identity(PythonJudgeConfig(f"{tmp_path / folder / 'my_judge.py'}:prefer")))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0]["target"] == "my_judge.py:prefer"
    assert found[0] != identity(PythonJudgeConfig(f"{tmp_path / 'a' / 'my_judge.py'}:Full"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [0.5]", r"my_judge.py:prefer answered with shape \(1,\) to 2 questions; \(2,\) was expected"),
        ("return [[0.5], [0.5]]", r"answered with shape \(2, 1\)"),
        ("return [0.2, 1.5]", r"answered 1.5, which is not a probability, in row 1, for the prompt 'y'"),
        ("return [0.2, float('nan')]", "answered nan, which is not a probability"),
        ("return 'better'", "prefer returned 'better', not numbers"),
        ("return None", "answered nan|not numbers|shape"),
        ("x = 1\n    return 1 / (x - 1)", r"failed in prefer: line 3: ZeroDivisionError: division by zero"),
        ("return helper(a)\n\ndef helper(a):\n    return a.nothing", "line 5: AttributeError"),
        ("return np.array([1, 2]).reshape(3)", "line 2: .*np"),
    ],
)
def test_a_wrong_answer_is_named(tmp_path, body, message):
    mine = judge(tmp_path, f"def prefer(prompts, a, b):\n    {body}\n")
    with pytest.raises(JudgeError, match=message):
        ask(mine, ["x", "y"], ["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        ("", "nowhere.py:prefer", MissingResource, "There is no file .*nowhere.py"),
        (SHORTER, "my_judge.py:preferr", ConfigError, "defines no 'preferr'"),
        (SHORTER, "my_judge.py", ConfigError, "write FILE.py:NAME"),
        (SHORTER, "my_judge:prefer", ConfigError, "write FILE.py:NAME"),
        ("prefer = 3", "my_judge.py:prefer", ConfigError, "neither a function"),
        ("def prefer(:", "my_judge.py:prefer", ConfigError, "failed while loading it: line 1: SyntaxError"),
        ("\nimport no_such_package_here", "my_judge.py:prefer", ConfigError, "line 2: ModuleNotFoundError"),
        ("class J:\n    def __init__(self, x):\n        pass", "my_judge.py:J", ConfigError, "making a J: TypeError"),
        (SHORTER.replace('feature_names = ("length", "words")', ""), "my_judge.py:Full", ConfigError, "feature_names"),
    ],
)
def test_a_file_that_holds_no_judge_is_refused(tmp_path, source, target, error, message):
    (tmp_path / "my_judge.py").write_text(source)
    with pytest.raises(error, match=message):
        load_judge(PythonJudgeConfig(f"{tmp_path}/{target}"), "cpu")


def test_it_cannot_change_the_caller_s_lists(tmp_path):
    mine = judge(tmp_path, "def prefer(prompts, a, b):\n    a.sort()\n    return [0.5] * len(a)\n")
    a = ["b", "a"]
    assert np.allclose(ask(mine, ["x", "y"], a, ["c", "d"]), 0.5)
    assert a == ["b", "a"]
