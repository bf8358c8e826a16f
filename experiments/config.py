"""Sweep files: typed, with unknown keys refused by name, ``grid`` and ``--set`` spread into single experiments.

A key is a dotted path into the sweep (``train.steps``), a field of one algorithm (``rloo.tau``), or, where
that is unambiguous, the last part alone (``steps``, ``timescale``); a field that several algorithms have is
set in each of them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from llm.algorithms import by_name
from llm.config import ModelConfig, TrainConfig
from llm.data import PromptConfig
from llm.judges.config import AttributeJudgeConfig, JudgeConfig
from llm.lora import Sharing
from slhf.algorithms import Algorithm, StackelbergGDA
from slhf.errors import ConfigError, InvalidData, require_at_least
from slhf.names import advice
from slhf.text import read_text


@dataclass(frozen=True)
class RewardConfig:
    """The Bradley-Terry reward that RLOO is given, fitted to judged pairs of base-model answers."""

    pairs: int = 64
    """Number of pairs, one per training prompt as long as they last."""
    l2: float = 0.01
    """Penalty on the standardised weights."""

    def __post_init__(self) -> None:
        require_at_least(self, pairs=1)
        if not self.l2 > 0:
            raise ConfigError(f"reward.l2 = {self.l2}: must be positive.")


@dataclass(frozen=True)
class EvaluationConfig:
    """The comparison on held-out prompts."""

    prompts: int = 80
    """How many held-out prompts."""
    rounds: int = 3
    """Rounds of refinement, at least 2; round 1 is the Leader's answer."""
    resamples: int = 10_000
    """Bootstrap resamples of the prompts."""
    leader_follower: bool = False
    """Let the base's, every StackelbergGDA run's and every other run's policy improve the first answers of all."""
    leader_follower_prompts: int | None = None
    """That on the first so many prompts; null for all."""
    parity: bool = False
    """Compare refinement with best of N and resampling at the same number N = 1, ..., ``rounds`` of generations."""
    samples: int | None = None
    """Draw so many answers per prompt from the base and from one run of each algorithm: how often and how the judge's
    preferences among all of them cycle, what RLHF, NLHF and SLHF choose from them, and how good that is; null for not.
    A judge that does not read each text once has (players x samples)^2 / 2 comparisons to make per prompt."""
    tau: float = 0.01
    """Temperature of the NLHF and SLHF choices among samples, with the samples' frequencies as the reference."""
    length_control: bool = False
    """Measure how preferences depend on lengths, and what they are at equal lengths."""

    def __post_init__(self) -> None:
        require_at_least(self, prompts=1, rounds=2, resamples=1, leader_follower_prompts=1, samples=2)
        if not self.tau > 0:
            raise ConfigError(f"evaluation.tau = {self.tau}: must be positive.")
        if self.leader_follower_prompts is not None and not self.leader_follower:
            raise ConfigError("evaluation.leader_follower_prompts goes with leader_follower: true.")


@dataclass(frozen=True)
class LanguageModelSweep:
    """Train each algorithm on a language model, then compare all of them with the base model."""

    name: str
    algorithms: tuple[dict[str, Any], ...]
    """One run each: an algorithm's name and fields; if wanted, ``title``, its name in tables, and ``sharing``, in
    place of the model's."""
    kind: Literal["language_model"] = "language_model"
    seed: int = 0
    model: ModelConfig = ModelConfig()
    judge: Annotated[JudgeConfig, Field(discriminator="kind")] = AttributeJudgeConfig()
    prompts: PromptConfig = PromptConfig()
    train: TrainConfig = TrainConfig()
    reward: RewardConfig = RewardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


@dataclass(frozen=True)
class MatrixJudgeConfig:
    """The game."""

    matrix: str
    """File of a preference matrix; a relative path in a sweep file starts from that file's folder."""


@dataclass(frozen=True)
class FiniteModelConfig:
    """The tiny transformer."""

    seed: int = 0
    """Of its random weights, and so of the reference policies."""
    rank: int = 8
    """Rank of its adapters."""
    trained: Literal["one", "two", "all"] = "one"
    """"one": an adapter for both roles; "two": one for each role, so only algorithms with a Follower; "all": all
    weights, without adapters."""


@dataclass(frozen=True)
class FiniteAnswersSweep:
    """Train each algorithm on answers that are single tokens and hold it against the exact solution."""

    name: str
    algorithms: tuple[dict[str, Any], ...]
    judge: MatrixJudgeConfig
    kind: Literal["finite_answers"] = "finite_answers"
    seed: int = 0
    model: FiniteModelConfig = FiniteModelConfig()
    train: TrainConfig = TrainConfig()


SWEEPS = Path(__file__).resolve().parent / "sweeps"
"""The project's own sweep files, which can be given by name: quickstart, qwen2.5-7b."""

SHARINGS: dict[str, Sharing] = {sharing: sharing for sharing in get_args(Sharing)}

Sweep = LanguageModelSweep | FiniteAnswersSweep
KINDS: dict[str, type[Sweep]] = {"language_model": LanguageModelSweep, "finite_answers": FiniteAnswersSweep}


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> list[Sweep]:
    """The experiments of a sweep file: every combination of its ``grid`` and the overrides.

    Args:
        path: a YAML file, or the name of one in ``SWEEPS``; its optional key ``grid`` maps keys to lists of values.
        overrides: ``key=value`` or ``key=value1,value2,...``; they replace the file's own grid of that key.

    Raises:
        ConfigError: the file is missing or not a mapping, a key is unknown (with the nearest valid one), or
            a value has the wrong type.
    """
    path = find_sweep(path)
    raw = _read(path)
    kind = _choose("kind", raw.get("kind", "language_model"), KINDS)
    grid = raw.pop("grid", {})
    for key in ("matrix", "target"):
        if key in raw.get("judge", {}):
            raw["judge"][key] = str(path.parent / str(raw["judge"][key]))
        if f"judge.{key}" in grid:
            grid[f"judge.{key}"] = [str(path.parent / str(name)) for name in grid[f"judge.{key}"]]
    grid |= dict(_parse_override(text) for text in overrides)
    experiments = []
    for values in itertools.product(*grid.values()):
        point = copy.deepcopy(raw)
        # a kind first: it decides which keys there are
        for key, value in sorted(zip(grid, values, strict=True), key=lambda item: not item[0].endswith("kind")):
            _assign(point, KINDS[kind], key, value)
        experiments.append(_validate(point, KINDS[kind], path))
    return experiments


def find_sweep(given: Path) -> Path:
    """The file itself, or the project's own sweep of that name.

    Raises:
        ConfigError: there is neither; with the nearest name, or all.
    """
    if given.is_file():
        return given
    own = {path.stem: path for path in sorted(SWEEPS.glob("*.yaml"))}
    if str(given) not in own:
        raise ConfigError(f"There is no sweep file {given}; of the project's own, {advice(given.stem, own)}")
    return own[str(given)]


def build_algorithm(entry: Mapping[str, Any]) -> Algorithm:
    """The spec of an entry ``{name: ..., field: value, ...}`` of a sweep's ``algorithms``."""
    rest = dict(entry)
    known = by_name()
    name = _choose("algorithm name", rest.pop("name", None), known)
    _check_keys(rest, known[name], f"algorithms.{name}")
    return _convert(known[name], rest, f"algorithms.{name}")


def build_judge(entry: Mapping[str, Any]) -> JudgeConfig:
    """The judge of an entry ``{kind: ..., field: value, ...}``, such as a sweep's ``judge``."""
    kinds = {option.kind: option for option in get_args(JudgeConfig)}
    kind = kinds[_choose("judge kind", entry.get("kind"), kinds)]
    _check_keys(entry, kind, f"judge {kind.kind}")
    return _convert(kind, entry, f"judge {kind.kind}")


def read_judge(text: str) -> JudgeConfig:
    """The judge of ``KIND[,KEY=VALUE...]``."""
    kind, *items = text.split(",")
    settings = {"kind": kind}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"--judge {text}: write KIND[,KEY=VALUE...], for example reward_model,model=DIRECTORY.")
        try:
            settings[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
            raise ConfigError(f"--judge {text}: {value} is not YAML: {' '.join(str(error).split())}") from error
    return build_judge(settings)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    spec: Algorithm
    sweep: LanguageModelSweep
    """The settings as they hold for this run."""
    title: str | None
    """Its name in tables, if the sweep gives one."""


def runs_of(sweep: LanguageModelSweep) -> list[PlannedRun]:
    """What a sweep trains, one run per entry of ``algorithms``.

    Raises:
        ConfigError: an entry is not as :class:`LanguageModelSweep` says.
    """
    runs = []
    for entry in sweep.algorithms:
        settings = {"sharing": sweep.model.sharing, "title": None, **entry}
        sharing, title = settings.pop("sharing"), settings.pop("title")
        if title is not None and not isinstance(title, str):
            raise ConfigError(f"algorithms.{entry.get('name')}: title = {title!r} is not a text.")
        sharing = SHARINGS[_choose(f"sharing of {entry.get('name')}", sharing, SHARINGS)]
        own = replace(sweep, model=replace(sweep.model, sharing=sharing))
        runs.append(PlannedRun(build_algorithm(settings), own, title))
    return runs


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, InvalidData) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of keys to values.")
    for key in ("model", "judge", "prompts", "train", "reward", "evaluation", "grid"):
        if key in raw and not isinstance(raw[key], dict):
            raise ConfigError(f"{path}: {key} must be a mapping of keys to values, not {raw[key]!r}.")
    algorithms = raw.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(entry, dict) for entry in algorithms):
        raise ConfigError(f"{path}: algorithms must be a list of mappings such as {{name: rloo, tau: 0.1}}.")
    for key, values in raw.get("grid", {}).items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: grid.{key} must be a list of values, not {values!r}.")
    return raw


def _parse_override(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ConfigError(f"--set {text}: write key=value, or key=value1,value2 for several runs.")
    whole = values.startswith(("[", "{"))
    try:
        return key, [yaml.safe_load(value) for value in ([values] if whole else values.split(","))]
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not YAML: {' '.join(str(error).split())}") from error


def _assign(raw: dict[str, Any], schema: type, key: str, value: Any) -> None:
    """Set ``key`` in ``raw``: a whole path wins over a last part, and each algorithm that has the field gets it.

    ``algorithms`` is set to names, and keeps the file's entries of those names.
    """
    if key == "algorithms":
        entries = {entry.get("name"): entry for entry in raw["algorithms"]}
        names = [
            _choose("algorithm of this sweep", name, entries)
            for name in (value if isinstance(value, list) else [value])
        ]
        raw["algorithms"] = [entry for entry in raw["algorithms"] if entry["name"] in names]
        return
    paths = _paths(schema, raw)
    matches = [path for path in paths if ".".join(path) == key] or [path for path in paths if path[-1] == key]
    if len(matches) > 1:
        raise ConfigError(f"{key!r} is ambiguous; write one of: {', '.join(map('.'.join, matches))}.")
    owners = [entry for name, entry in _algorithm_fields(raw) if key in (name, name.partition(".")[2])]
    if not matches and not owners:
        names = [name for path in paths for name in (".".join(path), path[-1])]
        names += [part for name, _ in _algorithm_fields(raw) for part in (name, name.partition(".")[2])]
        raise ConfigError(f"Unknown key {key!r}; {advice(key, names)}")
    for entry in owners:
        entry[key.rpartition(".")[2]] = value
    for path in matches:
        target = raw
        for part in path[:-1]:
            if target.get(part) is None:  # not there, or null in the file
                target[part] = {}
            target = target[part]
        target[path[-1]] = value


def _algorithm_fields(raw: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """("algorithm.field", the entry that holds it) for all algorithms of the sweep."""
    found, known = [], by_name()
    for entry in raw.get("algorithms") or []:
        name = _choose("algorithm name", entry.get("name"), known)
        found += [(f"{name}.{field.name}", entry) for field in fields(known[name])]
        if "sharing" in entry or (known[name] is StackelbergGDA and raw.get("kind") != FiniteAnswersSweep.kind):
            found.append((f"{name}.sharing", entry))
    return found


def _paths(schema: type, raw: Mapping[str, Any]) -> list[tuple[str, ...]]:
    hints = get_type_hints(schema)
    paths: list[tuple[str, ...]] = []
    for field in fields(schema):
        inside = raw.get(field.name) or {}
        inner = _dataclass(hints[field.name], inside)
        if inner:
            paths += [(field.name, *rest) for rest in _paths(inner, inside)]
        if inner is not hints[field.name] and field.name != "algorithms":
            paths.append((field.name,))
    return paths


def _validate(raw: dict[str, Any], schema: type, path: Path) -> Any:
    _check_keys(raw, schema, str(path))
    if schema is LanguageModelSweep and "judge" in raw:
        raw["judge"].setdefault("kind", AttributeJudgeConfig.kind)
    sweep = _convert(schema, raw, str(path))
    if not sweep.algorithms:
        raise ConfigError(f"{path}: algorithms is empty; name at least one of {', '.join(by_name())}.")
    if isinstance(sweep, LanguageModelSweep):
        runs_of(sweep)
    else:
        for entry in sweep.algorithms:
            build_algorithm(entry)
    return sweep


def _check_keys(raw: Mapping[str, Any], schema: type, where: str) -> None:
    hints = get_type_hints(schema)
    names = [field.name for field in fields(schema)]
    for key, value in raw.items():
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}; {advice(str(key), names)}")
        inner = _dataclass(hints[key], value) if isinstance(value, Mapping) else None
        if inner:
            _check_keys(value, inner, f"{where}: {key}")


def _dataclass(hint: Any, raw: Mapping[str, Any]) -> Any:
    """The dataclass that a hint names, alone, as ``X | None``, or among several by ``raw["kind"]`` (else the first).

    None if there is none.

    Raises:
        ConfigError: no dataclass of the union is of that kind.
    """
    options = [option for option in (hint, *get_args(hint)) if is_dataclass(option)]
    if len(options) < 2:
        return options[0] if options else None
    kinds = {option.kind: option for option in options}  # type: ignore[union-attr]
    return kinds[_choose("kind", raw.get("kind", options[0].kind), kinds)]  # type: ignore[union-attr]


def _convert(schema: type, raw: Mapping[str, Any], where: str) -> Any:
    try:
        return TypeAdapter(schema).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        if "error" in first.get("ctx", {}):  # one of our own range checks, which names field and value itself
            raise ConfigError(f"{where}: {first['ctx']['error']}") from error
        parts = [str(part) for part in first["loc"]]
        if parts[0] == "judge" and len(parts) > 2:
            del parts[1]  # the kind, by which pydantic tells the members of the union apart
        key = ".".join(parts)
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {key} is missing.") from error
        raise ConfigError(f"{where}: {key} = {first['input']!r}: {first['msg']}.") from error


def _choose(what: str, value: Any, options: Mapping[str, Any]) -> str:
    if not isinstance(value, str) or value not in options:
        raise ConfigError(f"Unknown {what} {value!r}; {advice(str(value), options)}")
    return value
