"""Groups of answers judged against each other."""

import numpy as np
import pytest

from llm import finite
from llm.algorithms.self_play import collect_groups
from llm.experience import Collector
from llm.generation import TransformersGenerator
from llm.judges.matrix import MatrixJudge
from llm.policy import LoRA, Policy

pytestmark = pytest.mark.numeric

LABELS = ["a", "b", "c"]
GAME = np.array([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]])


@pytest.mark.parametrize(("groups", "size"), [(1, 3), (2, 2)])
def test_an_answers_signal_is_its_mean_preference_over_the_others_of_its_group(tmp_path, groups, size):
    finite.build_model(tmp_path, LABELS, seed=0)
    policy = Policy.load(str(tmp_path), LoRA(rank=2, modules=finite.MODULES), dtype="float32")
    at = Collector(policy, TransformersGenerator(policy), MatrixJudge(GAME, LABELS), max_new_tokens=1, run_seed=0)
    experience = collect_groups(at, [finite.PROMPT, finite.PROMPT + " answer"] * 8, 3, groups, size)

    drawn = [LABELS.index(text) for text in experience.texts["leader"]]
    assert len(set(drawn)) == 3
    assert experience.texts["prompt"][: groups * size] == [finite.PROMPT] * (groups * size)
    assert experience.texts["prompt"][groups * size] != finite.PROMPT
    for row, i in enumerate(drawn):
        first = row - row % size
        others = [drawn[j] for j in range(first, first + size) if j != row]
        assert float(experience.signal[row]) == pytest.approx(np.mean([GAME[i, j] for j in others]), abs=1e-6)
    assert experience.step == 3
    assert experience.batch.owners["leader"].sum() == len(drawn)
