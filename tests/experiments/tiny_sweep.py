"""The quickstart in seconds, for tests of what is the same for every model."""

import json

from experiments.run import HERE
from llm import finite

QUICKSTART = str(HERE / "sweeps" / "quickstart.yaml")


def tiny_quickstart(folder):
    """Arguments of a quickstart whose model knows five words and whose runs go to ``folder``/runs."""
    finite.build_model(folder / "policy", list("abc"), seed=0)
    words = {"train": ("choose", "prompt"), "heldout": ("answer", "previous")}
    lines = [{"prompt": word, "split": split} for split in words for word in words[split]]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    settings = {
        "model.name": folder / "policy",
        "model.dtype": "float32",
        "layers": "null",
        "modules": list(finite.MODULES),
        "prompts.source": folder / "prompts.jsonl",
        "max_new_tokens": 1,
        "steps": 2,
        "batch_size": 2,
        "evaluation.prompts": 2,
        "rounds": 2,
        "resamples": 10,
    }
    return [QUICKSTART, "--out", str(folder / "runs"), *(f"--set={key}={value}" for key, value in settings.items())]
