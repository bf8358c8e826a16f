"""A tiny model, policies moved away from it, and a judge that looks at nothing but the text."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from experiments.config import EvaluationConfig
from experiments.evaluation import Contestant, Examination
from llm import finite
from llm.config import ModelConfig
from llm.policy import LoRA, Policy
from tests.llm.tiny import move

LABELS = ("a", "b", "c")
LORA = LoRA(rank=2, alpha=2.0, modules=finite.MODULES)
PROMPTS = ["choose", "a", "b", "choose a", "choose b", "c c", "b c"]


class TextJudge:
    """Preferences in sixths, drawn from a hash of the two texts and the prompt; it counts what it is asked."""

    feature_names = ("length",)

    def __init__(self):
        self.asked = []

    def prefer(self, prompts, a, b):
        self.asked += zip(prompts, a, b, strict=True)
        return np.array([preference(*row) for row in zip(prompts, a, b, strict=True)])

    def features(self, prompts, answers):
        return np.array([[float(len(y))] for y in answers])


def preference(x, y, other):
    if y > other:
        return 1 - preference(x, other, y)
    digest = hashlib.sha256(json.dumps([x, y, other]).encode()).digest()
    return 0.5 if y == other else digest[0] % 7 / 6


def build(directory):
    """The tiny model, which may also end its answers, as ``directory``."""
    finite.build_model(directory, LABELS, seed=1)
    policy = Policy.as_is(str(directory), dtype="float32")
    with torch.no_grad():
        policy.head.bias[policy.chat.eos] = 0.0
    policy.model.save_pretrained(directory)
    return ModelConfig(str(directory), dtype="float32", temperature=1.0, max_new_tokens=3, lora=LORA)


def adapter(model, directory, seed, sharing="one"):
    """An adapter of its own, away from the base."""
    policy = Policy.load(model.name, LORA, dtype="float32", sharing=sharing)
    move(policy, seed, scale=0.5)
    policy.save(directory)
    return directory


def examination(folder, model, adapters, **settings):
    """The base, two Stackelberg runs and another policy."""
    slhf, other, rloo = adapters
    contestants = [
        Contestant("Base", "base", model),
        Contestant("SLHF", "stackelberg_gda", model, slhf, trained_follower=True),
        Contestant("SLHF/κ=5", "stackelberg_gda", model, other, trained_follower=True),
        Contestant("RLOO", "rloo", model, rloo),
    ]
    return Examination(contestants, PROMPTS, EvaluationConfig(resamples=200, **settings), 0, folder)
