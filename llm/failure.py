"""A step that failed, kept so that it can be computed again: ``python -m llm.failure RUN/failed_step``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.algorithms import by_name, implementation
from llm.chat import Role
from llm.config import ModelConfig, load_policy
from llm.experience import Experience
from llm.microbatch import logprobs
from llm.optimise import ROLES
from llm.policy import Policy, TokenBatch, default_device
from slhf.algorithms import Algorithm
from slhf.errors import InvalidData, SLHFError, TrainingError
from slhf.runs import Run, write_directory

NAME = "failed_step"


@contextmanager
def recorded(
    run: Run, policy: Policy, spec: Algorithm, model: ModelConfig, experience: Experience, budget: int | None
) -> Iterator[None]:
    """Save the inputs of the step if this context ends in a :class:`TrainingError`, which then says where.

    ``failed_step/step.json`` holds prompts, texts and settings, ``tensors.safetensors`` token ids, masks, the
    judge's signal and the log-probabilities of reference, sampler and policy, ``adapter`` what is trained.
    """
    try:
        yield
    except TrainingError as error:
        tensors, facts = take_apart(experience)
        tensors["logp"] = logprobs(policy, experience.batch, budget)
        settings = {"algorithm": {"name": spec.name, **asdict(spec)}, "model": asdict(model)}
        text = json.dumps({"error": str(error), **settings, "experience": facts}, indent=2, allow_nan=False)

        def fill(path: Path) -> None:
            policy.save(path / "adapter")
            save_file({name: value.contiguous() for name, value in tensors.items()}, path / "tensors.safetensors")
            (path / "step.json").write_text(text, encoding="utf-8")

        path = run.path / NAME
        write_directory(path, fill)
        raise TrainingError(
            f"{error} The step's inputs are in {path}; `python -m llm.failure {path}` computes its loss again."
        ) from error


def take_apart(experience: Experience) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An experience as tensors and as what JSON can hold, each by name; the trunk can be read again."""
    batch = experience.batch
    tensors = {"ids": batch.ids, "attention": batch.attention}
    tensors |= {f"owner/{role}": mask for role, mask in batch.owners.items()}
    facts = {}
    for field in fields(experience):
        value = getattr(experience, field.name)
        if isinstance(value, Tensor) and field.name != "trunk":
            tensors[field.name] = value
        elif field.name not in ("batch", "trunk"):
            facts[field.name] = value
    return tensors, facts


def put_together(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Experience:
    """The inverse of :func:`take_apart`."""
    owners: dict[Role, Tensor] = {}
    for role in ROLES:
        if f"owner/{role}" in tensors:
            owners[role] = tensors[f"owner/{role}"]
    batch = TokenBatch(tensors["ids"], tensors["attention"], owners)
    names = {field.name for field in fields(Experience)}
    return Experience(batch, **{**facts, **{name: x for name, x in tensors.items() if name in names}})


@dataclass(frozen=True)
class Replay:
    """A failed step, computed again up to its gradient."""

    experience: Experience
    recorded: torch.Tensor
    """(R, T), the policy's log-probabilities when it failed."""
    logp: torch.Tensor
    """(R, T), and now."""
    loss: float
    grad_norm: float


def replay(path: Path) -> Replay:
    """Load a ``failed_step`` directory and compute its loss and gradient again, whole and without checks.

    Raises:
        InvalidData: ``path`` is not such a directory.
    """
    if not (path / "step.json").is_file():
        raise InvalidData(f"{path} holds no failed step; give the directory {NAME} of a run.")
    facts = json.loads((path / "step.json").read_text(encoding="utf-8"))
    settings = dict(facts["algorithm"])
    name = settings.pop("name")
    if name not in by_name():
        raise InvalidData(f"{path}: {name!r} is not an algorithm of this package; register it and call replay().")
    spec = by_name()[name](**settings)
    model = TypeAdapter(ModelConfig).validate_python(facts["model"])
    policy = load_policy(model, path / "adapter", 0, default_device())
    tensors = {name: value.to(policy.device) for name, value in load_file(path / "tensors.safetensors").items()}
    experience = put_together(tensors, facts["experience"])
    logp = policy.logprobs(experience.batch)
    loss, _ = implementation(spec).loss(spec, logp, experience)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for _, p in policy.trainable() if p.grad is not None])
    return Replay(experience, tensors["logp"], logp.detach(), loss.item(), norm.item())


def main(arguments: list[str]) -> int:
    """Print what a failed step comes to when it is computed again."""
    if len(arguments) != 1:
        print("usage: python -m llm.failure RUN/failed_step", file=sys.stderr)
        return 2
    try:
        again = replay(Path(arguments[0]))
    except SLHFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts = json.loads((Path(arguments[0]) / "step.json").read_text(encoding="utf-8"))
    finite = {
        "signal": again.experience.signal,
        "reference log-probabilities": again.experience.reference,
        "policy log-probabilities": again.logp,
    }
    print(f"then: {facts['error']}")
    print(f"now: loss {again.loss}, gradient norm {again.grad_norm}")
    print(f"largest change of a log-probability: {float((again.logp - again.recorded).abs().max())}")
    for name, values in finite.items():
        rows = (~torch.isfinite(values.view(len(values), -1)).all(1)).nonzero().flatten().tolist()
        print(f"{name}: " + (f"not finite in rows {rows}" if rows else "finite"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
