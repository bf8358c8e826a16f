"""One run on several processes, started by ``torchrun`` or, on GPUs, by ``accelerate launch``.

Each process answers, judges and reads its own contiguous slice of a step's prompts; which numbers a conversation
draws depends on its place in the whole batch alone. What was sampled is then shared, so that every process holds the
whole experience and computes the same loss, metrics and dL/dlogp from it: how the batch is split cannot change them,
whatever a loss couples. Only the passes through the model are divided: each process sends its own rows of dL/dlogp on
to the parameters, and the gradients are summed.

With adapters every process holds the whole model and one all-reduce of a flat buffer sums the gradients (data
parallel). Fully trained models are sharded by FSDP2: see :class:`ShardedPolicy`.

Process 0 alone writes. Whoever stops with an error or is killed takes the others with it: the launcher ends them. Where
one hangs, the others' next exchange with it fails after ``train.timeout_minutes``.

(``accelerate launch --cpu`` starts one process whatever ``--num_processes`` says; on CPUs use ``torchrun``.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import pad

from llm.chat import Role
from llm.experience import Experience
from llm.generation import Generator, Sample, Session
from llm.policy import REFERENCE, Policy, TokenBatch
from slhf.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of this run, and which of them this is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def slice(self, total: int) -> tuple[int, int]:
        """Where this process's part of ``total`` rows starts and ends; parts differ by at most one row.

        Raises:
            ConfigError: there are fewer rows than processes.
        """
        if total < self.count:
            raise ConfigError(f"train.batch_size = {total} is less than one prompt for each of {self.count} processes.")
        return self.rank * total // self.count, (self.rank + 1) * total // self.count

    def agree(self, value: T) -> T:
        """What process 0 has."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def everyones(self, value: T) -> list[T]:
        """What each process has, in order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def in_turn(self, work: Callable[[], T]) -> T:
        """Process 0 first, then the others, who find what it wrote."""
        if self.first:
            result = work()
        self.wait()
        return result if self.first else work()

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


def join(timeout_minutes: float) -> Processes:
    """Meet the other processes that the launcher started, if there are any; later calls return the same.

    Args:
        timeout_minutes: how long an exchange may wait for another process before it fails.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(minutes=timeout_minutes))
    return Processes(state.process_index, state.num_processes)


class SlicedGenerator:
    """A generator whose sessions hold rows ``start`` to ``end`` of a whole batch, and draw as those."""

    def __init__(self, generator: Generator, start: int, end: int) -> None:
        self.generator, self.start, self.count = generator, start, end - start

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> SlicedSession:
        """See :class:`~llm.generation.Generator`; the prompts may be several for each row, in the rows' order."""
        return SlicedSession(self.generator.open(prompts, mixture), self.start * len(prompts) // self.count)


class SlicedSession:
    """A session that knows where in the whole batch its first conversation is."""

    def __init__(self, session: Session, first_row: int) -> None:
        self.session, self.first_row = session, first_row

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """See :class:`~llm.generation.Session`."""
        self.session.extend(tokens)

    def repeat(self, times: int) -> None:
        """See :class:`~llm.generation.Session`."""
        self.session.repeat(times)
        self.first_row *= times

    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader", first_row: int = 0) -> list[Sample]:
        """See :class:`~llm.generation.Session`."""
        return self.session.sample(max_new_tokens, seed, role, self.first_row + first_row)

    def trunk(self, conversations: list[list[int]]) -> Tensor | None:
        """See :class:`~llm.generation.Session`."""
        return self.session.trunk(conversations)


@dataclass(frozen=True)
class Part:
    """This process's part of a step's experience."""

    processes: Processes
    batch: TokenBatch
    """Our own rows, as they were collected."""
    rows: Tensor
    """Which rows of the whole experience they are."""
    trunk: Tensor | None = None
    """(r, t, d), what ``policy.trunk`` made of them."""

    def spread(self, mine: Tensor, shape: Sequence[int]) -> Tensor:
        """Our rows of something, (r, t), -> everyone's, of ``shape`` (R, T), without gradient."""
        if self.processes.count == 1:
            return mine.detach()
        everyones = torch.zeros(*shape, dtype=mine.dtype, device=mine.device)
        everyones[self.rows, : mine.shape[1]] = mine.detach()
        return self.processes.sum(everyones)


def share(mine: Experience, processes: Processes) -> tuple[Experience, Part]:
    """The whole batch's experience, in the order in which one process would have collected it, and our part of it."""
    device, rows = mine.batch.ids.device, torch.arange(len(mine.batch.ids))
    if processes.count == 1:
        return mine, Part(processes, mine.batch, rows.to(device), mine.trunk)
    parts = processes.everyones(_moved(mine, "cpu"))
    blocks = len(mine.batch.ids) // len(mine.signal)  # of rows: one, or the Leader's and then the Follower's
    columns = max(part.batch.ids.shape[1] for part in parts)

    def join_rows(read: Callable[[Experience], Tensor]) -> Tensor:
        wide = [pad(read(part), (0, columns - read(part).shape[1])).chunk(blocks) for part in parts]
        return torch.cat([torch.cat(block) for block in zip(*wide, strict=True)])

    owners = {role: join_rows(partial(_owner, role)) for role in mine.batch.owners}
    everything = replace(
        mine,
        batch=TokenBatch(join_rows(lambda part: part.batch.ids), join_rows(lambda part: part.batch.attention), owners),
        reference=join_rows(lambda part: part.reference),
        signal=torch.cat([part.signal for part in parts]),
        texts={name: [text for part in parts for text in part.texts[name]] for name in mine.texts},
        sampled=None if mine.sampled is None else join_rows(_sampled),
        generated=sum(part.generated for part in parts),
    )
    sizes = [len(part.signal) for part in parts]
    rows = rows.view(blocks, -1) - torch.arange(blocks)[:, None] * (len(mine.signal) - sum(sizes))
    return _moved(everything, device), Part(
        processes, mine.batch, rows.flatten().to(device) + sum(sizes[: processes.rank])
    )


def _owner(role: Role, experience: Experience) -> Tensor:
    return experience.batch.owners[role]


def _sampled(experience: Experience) -> Tensor:
    assert experience.sampled is not None
    return experience.sampled


def _moved(experience: Experience, device: torch.device | str) -> Experience:
    batch = experience.batch
    return replace(
        experience,
        batch=TokenBatch(
            batch.ids.to(device), batch.attention.to(device), {r: m.to(device) for r, m in batch.owners.items()}
        ),
        reference=experience.reference.to(device),
        signal=experience.signal.to(device),
        sampled=None if experience.sampled is None else experience.sampled.to(device),
        trunk=None,  # large, and of use only where the rows are read
    )


def sum_gradients(parameters: Sequence[torch.nn.Parameter], processes: Processes) -> None:
    """Every parameter's gradient becomes its sum over the processes, by one all-reduce of a flat buffer.

    A parameter that got no gradient here counts as 0; one that got none anywhere stays without.
    """
    if processes.count == 1:
        return
    reached = [p for p, n in zip(parameters, _reached(parameters, processes), strict=True) if n > 0]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in reached])
    for p, gradient in zip(reached, processes.sum(flat).split([p.numel() for p in reached]), strict=True):
        p.grad = gradient.view_as(p).clone()


def _reached(parameters: Sequence[torch.nn.Parameter], processes: Processes) -> list[float]:
    """On how many processes each parameter has a gradient."""
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    return processes.sum(has).tolist()


class ShardedPolicy(Policy):
    """A fully trained policy, and its reference, of which each process keeps an equal share of every tensor (FSDP2).

    A pass with gradient gathers one layer at a time and gives each process the mean gradient of its share. Without
    gradient (sampling, the reference, reading in micro-batches) the processes have different amounts to do, so there
    the weights are gathered once, in :meth:`gathered`, and for that long each process holds all of them.

    Every process must make the same calls of :meth:`.Policy.logprobs` with gradient and of :meth:`gathered`.
    """

    @classmethod
    def of(cls, policy: Policy) -> ShardedPolicy:
        """Shard a policy that every process loaded alike. No optimiser may know its parameters: they are replaced."""
        self = cls(policy.model, policy.tokenizer, policy.temperature, policy.sharing, policy._frozen)
        for causal in (self.model, self._frozen):
            for layer in causal.get_decoder().layers:
                fully_shard(layer)
            fully_shard(causal)
            # the decoder and the output layer are used without the model around them, whose share they need
            causal.within = _within.__get__(causal)
            register_fsdp_forward_method(causal, "within")
            with torch.no_grad():  # its first call makes it the root of its layers
                causal(input_ids=torch.tensor([[self.chat.eos]], device=self.device))
            causal.reshard()
        return self

    def trunk(self, batch: TokenBatch) -> Tensor | None:
        """None: every layer is trained."""
        return None

    def _score(self, *args: Any) -> Tensor:
        causal = self._frozen if self.adapter == REFERENCE else self.model
        return causal.within(super()._score, *args)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within this context, and without gradient, every process holds all weights and exchanges nothing."""
        modules = [module for causal in (self.model, self._frozen) for module in _sharded_modules(causal)]
        for module in modules:
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
                module.set_reshard_after_forward(True, recurse=False)

    def save(self, directory: Path) -> None:
        """See :class:`~llm.policy.Policy`; within :meth:`gathered`."""
        weights = {name: p.detach().cpu() for name, p in self.model.named_parameters()}
        self.model.save_pretrained(str(directory), state_dict=weights)
        self.tokenizer.save_pretrained(str(directory))


def _within(causal: Any, compute: Callable[..., T], *args: Any) -> T:
    return compute(*args)


def _sharded_modules(causal: Any) -> list[Any]:
    return [causal, *causal.get_decoder().layers]


def shard(policy: Policy, processes: Processes) -> Policy:
    """The policy as several processes hold it: adapters as they are, a fully trained one in shares."""
    return ShardedPolicy.of(policy) if policy.full and processes.count > 1 else policy


@contextmanager
def gathered(policy: Policy) -> Iterator[None]:
    """Within this context every process holds all weights: :meth:`ShardedPolicy.gathered`, or as it is anyway."""
    if isinstance(policy, ShardedPolicy):
        with policy.gathered():
            yield
    else:
        yield


def whole(x: Tensor) -> Tensor:
    """A tensor as it was before sharding; every process must ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def share_of(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, placed and sharded like another."""
    if isinstance(like, DTensor):
        return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)
    return x.to(like.device)
