"""What ``experiments/refine.py`` does once its arguments are understood: read, answer, improve, judge."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from experiments import contestants, process
from experiments.evaluation import Contestant
from llm.data.conversations import Conversations, LeftOut
from llm.data.prompts import described, prompt_of, single_turn
from llm.data.selection import Tally
from llm.data.sources import Table, open_source, text_table
from llm.evaluate import compare
from llm.judges.config import JudgeConfig, PythonJudgeConfig
from llm.judges.loading import load_judge
from llm.lengths import Player, fitting
from llm.plain_generator import sampler
from llm.policy import default_device
from llm.refine import refine
from slhf.errors import ConfigError, InvalidData, RunError
from slhf.intervals import estimate, too_few, with_interval
from slhf.runs import append, sync, write_json
from slhf.text import decode, read_text, split_lines

if TYPE_CHECKING:
    from experiments.refine import Command

MAX_NEW_TOKENS = 128
"""Where neither the command nor a run says otherwise."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Task:
    """What is refined, by whom and how."""

    command: Command
    rows: list[int]
    """Where the prompts are in their file, from 0."""
    prompts: list[str]
    first: list[str] | None
    """Given answers of round 1."""
    leader: Contestant | None
    """None where the first answers are given."""
    follower: Contestant
    """The same object as the Leader if one model plays both roles."""

    @property
    def record(self) -> Path:
        """The file beside the output that says how it is made."""
        return self.command.out.with_name(f"{self.command.out.stem}.settings.json")

    def settled(self) -> Task:
        """With the number formats in which the output was begun."""
        leader = self.leader and self.leader.settled(self.record)
        follower = leader if self.follower is self.leader else self.follower.settled(self.record)
        return replace(self, leader=leader, follower=follower)  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """All that the answers depend on, beside the prompts, as JSON: the weights by their digests."""

        def of(one: Contestant) -> dict[str, Any]:
            return {"model": asdict(one.model), "weights": contestants.fingerprint(one)}

        roles = {"leader": "given" if self.leader is None else of(self.leader), "follower": of(self.follower)}
        numbers = {name: getattr(self.command, name) for name in ("rounds", "batch_size", "seed")}
        return json.loads(json.dumps({**roles, **numbers}))


def run(command: Command, judge: JudgeConfig | None) -> None:
    """Read, refine what is not yet there, and judge if asked to."""
    process.prepare()
    if isinstance(judge, PythonJudgeConfig):
        load_judge(judge, default_device())  # a mistake in it: now, not after the answers
    task = read_task(command)
    with opened(task) as file:
        done, task = resume(file, task), task.settled()
        if done < len(task.prompts):
            refine_rest(task, file, done)
    if judge is not None:
        print(verdict(command.out, judge))
    print(f"Answers: {command.out}", file=sys.stderr)


def read_task(command: Command) -> Task:
    """The prompts and who is asked.

    Raises:
        InvalidData: of the prompts; line and field are named.
        ConfigError, MissingResource, RunError: a Leader beside given answers, or no such Leader or Follower.
    """
    table = read_prompts(command.prompts)
    rows, prompts = single_turns(table)
    if table.has("answer"):
        if command.leader is not None:
            raise ConfigError(f'{table.name} gives first answers ("answer"): leave out --leader.')
        answers = table.texts("answer")
        first = [answers[row] for row in rows]
        follower = player("Follower", command.follower or "embedded", command)
        return fitted(Task(command, rows, prompts, first, None, follower))
    leader = player("Leader", command.leader or "embedded", command)
    follower = leader if command.follower is None else player("Follower", command.follower, command)
    return fitted(Task(command, rows, prompts, None, leader, follower))


def single_turns(table: Table) -> tuple[list[int], list[str]]:
    """The places of the rows that are prompts of a single turn, and these; the others are counted and reported.

    Raises:
        InvalidData: a row cannot be read or is empty, or none is left.
    """
    tally, said = Tally(table.name), Conversations(table)
    tally.rows = table.rows
    tally.unread.update(said.unread)
    found = {}
    for row in range(table.rows):
        try:
            found[row] = single_turn(said, row)
        except LeftOut as reason:
            tally.drop(str(reason), table, row)
    if not found:
        raise InvalidData(f"{table.name} has no prompt of a single turn ({tally.summary()}).")
    tally.report(f"{len(found):,}")
    return list(found), list(found.values())


def fitted(task: Task) -> Task:
    """The task without the prompts that are too long for who is asked; they are counted and reported."""
    players = [Player.named(task.follower.model, follows=task.command.rounds > 1)]
    if task.leader is not None and task.leader is not task.follower:
        players.append(Player.named(task.leader.model, follows=False))
    kept = fitting(task.prompts, players, task.first)
    return replace(
        task,
        rows=[task.rows[i] for i in kept],
        prompts=[task.prompts[i] for i in kept],
        first=task.first and [task.first[i] for i in kept],
    )


def player(title: str, what: str, command: Command) -> Contestant:
    """Who plays a role, with the command's sampling settings, else its run's own, else the defaults."""
    found = contestants.resolve(title, what)
    longest = command.max_new_tokens or (None if found[1] else MAX_NEW_TOKENS)
    return contestants.sampled_alike([found], command.temperature, longest, command.dtype)[0]


def read_prompts(source: str) -> Table:
    """The table of prompts, and perhaps "answer".

    Raises:
        InvalidData: it cannot be read; line and field are named.
    """
    if source == "-":
        return text_table("standard input", decode("standard input", sys.stdin.buffer.read())[0])
    tables = open_source(source)
    if not Path(source).is_file():
        raise InvalidData(f"{source} is not a file.")
    return tables[0]


@contextmanager
def opened(task: Task) -> Iterator[IO[bytes]]:
    """The output for reading and appending, ours alone, and begun with the same settings.

    Raises:
        RunError: another process writes it, or it was begun with other settings.
    """
    out, beside, settings = task.command.out, task.record, task.settings()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"Another process writes {out}; wait for it or give another --out.") from None
        if out.stat().st_size:
            known = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
            differing = [key for key in settings if known.get(key) != settings[key]]
            if differing:
                reason = (
                    f"with other settings ({', '.join(differing)})" if known else f"by something else (no {beside})"
                )
                raise RunError(f"{out} was written {reason}; give another --out, or remove it to start anew.")
        else:
            write_json(beside, settings)
        yield file


def resume(file: IO[bytes], task: Task) -> int:
    """How many rows are done; a last line that a crash cut off is removed.

    Raises:
        RunError: the output is of other prompts or other first answers.
    """
    file.seek(0)
    whole = file.read()
    whole = whole[: whole.rfind(b"\n") + 1]
    file.truncate(len(whole))
    rows, prompts = [json.loads(line) for line in split_lines(whole.decode())], described(task.prompts)
    for number, row in enumerate(rows):
        same = number < len(prompts) and row["prompt"] == prompts[number]
        if not same or (task.first is not None and row["answers"][0] != task.first[number]):
            raise RunError(
                f"{task.command.out}, line {number + 1} is of another prompt or first answer; give another --out."
            )
    return len(rows)


def refine_rest(task: Task, file: IO[bytes], done: int) -> None:
    """Append the rows from ``done`` on.

    Batches start at multiples of the batch size whatever was interrupted, since rounding may depend on the rows of a
    batch: one that was cut short is computed again as a whole.
    """
    size, prompts = task.command.batch_size, task.prompts
    with tqdm(total=len(prompts), initial=done, desc="refining", unit="prompt") as bar:
        answer = answering(task)
        for start in range(done - done % size, len(prompts), size):
            rounds = zip(described(prompts[start : start + size]), *answer(start), strict=True)
            rows = [
                {"row": row + 1, "prompt": prompt, "answers": list(answers)}
                for row, (prompt, *answers) in zip(task.rows[start:], rounds, strict=False)
            ]
            new = rows[max(0, done - start) :]
            append(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))
            bar.update(len(new))
    sync(task.command.out.resolve().parent)


def answering(task: Task) -> Callable[[int], list[list[str]]]:
    """Load who is needed; the function gives all rounds of the batch that starts at a row."""
    size, seed = task.command.batch_size, task.command.seed

    def loaded(one: Contestant) -> Callable[..., list[list[str]]]:
        policy, longest = one.load(), one.model.max_new_tokens
        return partial(refine, policy, sampler(policy), max_new_tokens=longest, seed=seed)

    follower = loaded(task.follower)
    leader = None if task.leader is None or task.leader is task.follower else loaded(task.leader)

    def answer(start: int) -> list[list[str]]:
        batch = slice(start, start + size)
        prompts, first = task.prompts[batch], None if task.first is None else task.first[batch]
        if leader is not None:
            (first,) = leader(prompts, 1, first_row=start)
        return follower(prompts, task.command.rounds, first=first, first_row=start)

    return answer


def verdict(out: Path, config: JudgeConfig) -> str:
    """How each round fares against the first, with intervals over prompts."""
    rows = [json.loads(line) for line in split_lines(read_text(out))]
    judge = load_judge(config, default_device(), remember=True)
    prompts, first, *later = zip(*((prompt_of(row["prompt"]), *row["answers"]) for row in rows), strict=True)
    of = too_few(len(rows)) or f"{len(rows)} prompts, 95 % bootstrap intervals"
    lines = [f"Preferred to round 1 by the judge of kind {config.kind} ({of.rstrip('.')}):"]
    for number, answers in enumerate(later, 2):
        found = estimate(compare(judge, prompts, answers, first), RESAMPLES, 0)
        lines.append(f"  round {number}: {with_interval(found)}")
    return "\n".join(lines)
