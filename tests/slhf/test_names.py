"""What is said about a name that does not exist: the one meant, or all; never a wrong guess."""

import pytest

from slhf.algorithms import ALGORITHMS
from slhf.names import advice, meant

KEYS = ["train.steps", "steps", "train.batch_size", "batch_size", "rloo.learning_rate", "learning_rate", "model.lora"]
KEYS += ["lora", "model.lora.rank", "rank", "tau_leader", "tau_follower", "timescale", "max_new_tokens", "judge.kind"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("lr", "learning_rate"),
        ("rloo.lr", "rloo.learning_rate"),
        ("bs", "batch_size"),
        ("learning-rate", "learning_rate"),
        ("Steps", "steps"),
        ("kappa", "timescale"),
        ("trian.steps", "train.steps"),
        ("trian.stesp", "train.steps"),
        ("lerning_rate", "learning_rate"),
        ("max_tokens", "max_new_tokens"),
        ("num_steps", "steps"),
        ("scale", "timescale"),
        ("tau", "tau_leader or tau_follower"),
        ("raank", "rank"),
    ],
)
def test_the_key_that_was_meant_is_named(typed, expected):
    assert advice(typed, KEYS) == f"did you mean {expected}?"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("dpo", ["online_dpo"]),
        ("online-DPO", ["online_dpo"]),
        ("nash", ["nash_md"]),
        ("slhf", ["stackelberg_gda"]),
        ("stackleberg", ["stackelberg_gda"]),
        ("rlo", ["rloo"]),
        ("online", ["online_ipo", "online_dpo"]),
        ("ppo", []),
        ("taau", []),
        ("grpo", []),
        ("xyz", []),
        ("", []),
    ],
)
def test_the_algorithm_that_was_meant_is_named_and_no_other(typed, expected):
    assert meant(typed, ALGORITHMS) == expected


def test_in_doubt_all_names_are_listed():
    assert advice("zzz", ["tau", "samples"]) == "valid are tau, samples"
    assert advice("a", ["ax", "ay", "az", "aw"]) == "valid are ax, ay, az, aw"


def test_of_dotted_names_those_of_the_same_section_are_listed():
    assert advice("judge.zzz", KEYS) == "valid are judge.kind"
    assert advice("trian", KEYS) == "valid are train.steps, train.batch_size"


@pytest.mark.parametrize("typed", ["--taau", "--tua", "--Tau"])
def test_a_slip_in_a_short_word_is_a_letter_exchanged_or_doubled(typed):
    assert advice(typed, ["--tau", "--l2", "--json"]) == "did you mean --tau?"
