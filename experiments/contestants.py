"""Policies from wherever they are: run directories, checkpoints, adapters, models, the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import AutoConfig

from experiments.evaluation import Contestant, trained_contestant
from experiments.places import find, run_of
from llm import checkpoint
from llm.config import ModelConfig
from llm.data import PRESETS, PromptConfig
from llm.embedded import from_pretrained
from llm.lora import LoRA
from llm.policy import FOLLOWER
from llm.precision import Dtype
from slhf.errors import ConfigError, RunError
from slhf.text import read_text

WEIGHTS = ".safetensors"
"""How the files of weights that are read end."""


def resolve(title: str, what: str) -> tuple[Contestant, bool]:
    """The contestant that ``what`` stands for, and whether it brings its own sampling settings.

    Args:
        title: its name in tables.
        what: a run directory (its last checkpoint), a checkpoint or adapter in one, any other peft adapter's
            directory, a model's directory, a hub id, or "embedded".

    Raises:
        MissingResource: there is no such directory or model.
        ConfigError, RunError: the directory is not one of these.
    """
    path = find(title, what)
    if path is None:
        return Contestant(title, title, as_is(what)), False
    run = run_of(path)
    if run is not None:
        return of_run(title, run, path), True
    if (path / "adapter_config.json").is_file():
        return of_adapter(title, path), False
    return Contestant(title, title, as_is(str(path))), False


def prompts_as_trained(source: str, places: Sequence[str]) -> PromptConfig:
    """The settings of prompts from ``source`` that the runs among ``places`` trained with, else the defaults.

    With another ``heldout_share`` what a run trained on would count as held out.

    Raises:
        ConfigError: the runs trained on ``source`` with different settings, or a run does not say on what.
    """
    known: dict[PromptConfig, Path] = {}
    for run in filter(None, (run_of(Path(place).expanduser()) for place in places)):
        try:
            config = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["config"]
            prompts = TypeAdapter(PromptConfig).validate_python(config["prompts"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{run / 'manifest.json'} does not say which prompts the run trained on.") from error
        if origin(prompts.source) == origin(source):
            known.setdefault(replace(prompts, source=source), run)
    if len(known) > 1:
        (one, run), (other, second), *_ = known.items()
        differing = [key for key, value in asdict(one).items() if value != getattr(other, key)]
        raise ConfigError(
            f"{run} and {second} trained on prompts of {source} with other settings ({', '.join(differing)}), so they "
            "hold out different ones; give --prompts a source that neither trained on."
        )
    return next(iter(known), PromptConfig(source))


def origin(source: str) -> str:
    """One name for each source: a file's absolute path, or the id of the data set behind a preset."""
    return str(Path(source).resolve()) if Path(source).exists() else PRESETS.get(source, source)


def as_is(name: str) -> ModelConfig:
    """A model without adapters of ours; an error now, not in the middle of an evaluation, if it is not to be had."""
    from_pretrained(AutoConfig, name)
    return ModelConfig(name, lora=None)


def of_adapter(title: str, path: Path) -> Contestant:
    """The policy of an adapter outside a run, on the model it names; the Follower's own is in the folder "follower".

    Raises:
        ConfigError: there is one for each role, but not LoRA on modules given by name.
    """
    shape = json.loads(read_text(path / "adapter_config.json"))
    model = as_is(str(shape.get("base_model_name_or_path")))
    if not (path / FOLLOWER / "adapter_config.json").is_file():
        return Contestant(title, title, model, path)
    if shape.get("peft_type") != "LORA" or not isinstance(shape.get("target_modules"), list):
        raise ConfigError(f"{title}: {path} holds two roles' adapters, but not LoRA with a list of modules.")
    layers = shape.get("layers_to_transform")
    lora = LoRA(shape["r"], shape["lora_alpha"], layers and len(layers), tuple(sorted(shape["target_modules"])))
    return Contestant(title, title, replace(model, lora=lora, sharing="two"), path, trained_follower=True)


def of_run(title: str, run: Path, place: Path) -> Contestant:
    """The policy of a run directory; ``place`` is the run itself or something in one of its checkpoints."""
    try:
        config = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["config"]
        model = TypeAdapter(ModelConfig).validate_python(config["model"])
        algorithm = config["algorithm"]["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{title}: {run} is not a run that trained a language model.") from error
    here, found = place.resolve(), checkpoint.find_all(run)
    inside = found[-1:] if here == run.resolve() else [one for one in found if here.is_relative_to(one.resolve())]
    if not found:
        raise RunError(f"{title}: {run} holds no checkpoint yet; wait for one, or start its sweep again.")
    if not inside:
        raise ConfigError(
            f"{title}: {place} is neither the run {run} nor in one of its checkpoints "
            f"({', '.join(one.name for one in found)}); give one of these, or move it out of the run."
        )
    return replace(trained_contestant(title, algorithm, model, inside[0]), kind=title)


def sampled_alike(
    found: Sequence[tuple[Contestant, bool]],
    temperature: float | None,
    max_new_tokens: int | None,
    dtype: Dtype | None = None,
) -> list[Contestant]:
    """All contestants with the given sampling settings; where none is given, with those that the runs have.

    A given ``dtype`` holds for all, too; else each keeps its own.

    Raises:
        ConfigError: none is given and the runs differ.
    """
    given = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    settings: dict[str, Any] = {}
    for key, value in given.items():
        known = {getattr(one.model, key) for one, own in found if own}
        if value is None and len(known) > 1:
            raise ConfigError(
                f"The runs differ in {key} ({', '.join(map(str, sorted(known)))}); set it for all of them."
            )
        settings[key] = value if value is not None else next(iter(known), getattr(ModelConfig(), key))
    if dtype is not None:
        settings["dtype"] = dtype
    return [replace(one, model=replace(one.model, **settings)) for one, _ in found]


def fingerprint(one: Contestant) -> dict[str, str]:
    """What tells a contestant's weights from others of the same path: digests of the files; hub ids as they are."""
    places = [Path(place) for place in (one.model.name, one.adapter) if place is not None and Path(place).is_dir()]
    digests = {}
    for file in sorted(file for place in places for file in place.rglob("*") if file.suffix == WEIGHTS):
        with file.open("rb") as content:
            digests[f"{file.parent.name}/{file.name}"] = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    return digests
