import pytest

from benchmarks.reward_ensemble import BATCHED, OURS, SINGLE, pairs, report


def test_pairs_are_of_the_length_asked_for():
    prompts, a, b = pairs(5, words=10)
    assert len(prompts) == len(set(prompts)) == len(a) == len(b) == 5
    assert all(5 <= len(answer.split()) <= 10 for answer in a + b)
    assert pairs(5, words=10) == (prompts, a, b)


@pytest.mark.parametrize(("ours", "shown"), [([1.0, 2.0, 4.0], "3.0× (2.5 – 8.0)"), ([1.0], "8.0× (8.0 – 8.0)")])
def test_ratios_are_medians_over_rounds(ours, shown):
    rounds = len(ours)
    row = {
        "dtype": "float32",
        "seconds": {OURS: ours, BATCHED: [2.0] * rounds, SINGLE: [8.0, 6.0, 10.0][:rounds]},
        "greatest_difference": 2e-6,
        "spread": 0.5,
        "flops_per_second": 10.0,
        "flop": 10.0,
        "flop_one_at_a_time": 50.0,
    }
    settings = {"heads": 5, "pairs": 3, "words": 10, "threads": 1, "clock": "cpu", "rounds": rounds}
    machine = {"device": "any", "torch": "2", "transformers": "5", "peft": "0"}
    text = report({"settings": settings, "machine": machine, "results": [("some", row)]})
    assert shown in text
    assert "| 5.0× |" in text
    assert "2e-06 (0.50)" in text
