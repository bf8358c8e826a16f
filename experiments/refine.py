"""``python experiments/refine.py PROMPTS``: let a Follower improve a model's answers, round after round."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

from experiments import contestants, process
from experiments.config import read_judge
from experiments.evaluation import Contestant
from llm import embedded
from llm.data.sources import Table, json_table, open_source
from llm.evaluate import compare
from llm.judges.config import JudgeConfig, PythonJudgeConfig, load_judge
from llm.plain_generator import sampler
from llm.policy import default_device
from llm.precision import Dtype
from llm.refine import refine
from slhf.errors import ConfigError, InvalidData, InvalidParameter, RunError, require_at_least
from slhf.intervals import estimate, too_few, with_interval
from slhf.runs import sync, write_json

MAX_NEW_TOKENS = 128
"""Where neither the command nor a run says otherwise."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Command:
    """Refine answers: the Leader answers each prompt, then the Follower improves the answer, again and again.

    Writes one JSON object per prompt, {"row": 1, "prompt": ..., "answers": [round 1, round 2, ...]}, as soon as it
    has them. Start the same command again after an interruption: it goes on where it stopped, and the result is the
    one of an uninterrupted run. Settings are kept beside the output, in NAME.settings.json.

    Leader and Follower are each a run directory (its last checkpoint), a checkpoint in one, the directory of a peft
    adapter or of a model, a hub id, or "embedded".

    Examples:
      python experiments/refine.py prompts.txt
      echo "Why is the sky blue?" | python experiments/refine.py - --rounds 4
      python experiments/refine.py prompts.txt --judge attributes
      python experiments/refine.py prompts.jsonl --leader runs/quickstart/stackelberg_gda-HASH --out refined.jsonl
      python experiments/refine.py prompts.jsonl --leader MODEL --follower runs/quickstart/stackelberg_gda-HASH
      python experiments/refine.py answered.jsonl --follower runs/quickstart/stackelberg_gda-HASH
    """

    prompts: tyro.conf.Positional[str]
    """A .txt file, one prompt a line; a .jsonl, .csv or .parquet file with a field "prompt", and perhaps "answer": it
    is then round 1, and no Leader is asked; or - for standard input, lines of text or of JSON."""
    leader: str | None = None
    """Who answers first; by default "embedded"."""
    follower: str | None = None
    """Who improves the answers; by default the Leader plays both roles."""
    out: Path = Path("refined.jsonl")
    """Where the answers go."""
    rounds: int = 3
    """Answers per prompt, the first one included."""
    temperature: float | None = None
    """Sampling temperature; by default each run's own, else 0.7."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; by default each run's own, else 128."""
    dtype: Dtype | None = None
    """Number format of the weights; by default each run's own setting, else "auto": bfloat16 where the device has units
    for it, else float32."""
    batch_size: int = 8
    """Prompts at a time."""
    seed: int = 0
    """Of all draws; each prompt draws from a stream of its own."""
    judge: str | None = None
    """In the end, print how often this judge prefers each round to round 1: KIND[,KEY=VALUE...], such as attributes or
    python,target=my_judge.py:prefer."""


@dataclass(frozen=True)
class Task:
    """What is refined, by whom and how."""

    command: Command
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


def main(arguments: list[str] | None = None) -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, "refine.py", work, arguments, "the same command goes on where it stopped.")


def work(command: Command) -> None:
    """Refine, after a look at the environment."""
    process.prepare()
    embedded.refuse_foreign_llm()
    run(command)


def check_options(command: Command) -> None:
    """Refuse numbers out of range (not when parsing: the parser would make it an error of its own).

    Raises:
        InvalidParameter: naming the option.
    """
    require_at_least(command, rounds=1 if command.judge is None else 2, batch_size=1, max_new_tokens=1)
    if command.temperature is not None and not command.temperature > 0:
        raise InvalidParameter(f"Command.temperature = {command.temperature}: must be positive.")


def run(command: Command) -> None:
    """Read, refine what is not yet there, and judge if asked to."""
    check_options(command)
    judge = None if command.judge is None else read_judge(command.judge)
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
    prompts = table.texts("prompt")
    for row, prompt in enumerate(prompts):
        if not prompt.strip():
            raise table.malformed(row, "prompt", "is empty")
    if table.has("answer"):
        if command.leader is not None:
            raise ConfigError(f'{table.name} gives first answers ("answer"): leave out --leader.')
        follower = player("Follower", command.follower or "embedded", command)
        return Task(command, prompts, table.texts("answer"), None, follower)
    leader = player("Leader", command.leader or "embedded", command)
    follower = leader if command.follower is None else player("Follower", command.follower, command)
    return Task(command, prompts, None, leader, follower)


def player(title: str, what: str, command: Command) -> Contestant:
    """Who plays a role, with the command's sampling settings, else its run's own, else the defaults."""
    found = contestants.resolve(title, what)
    longest = command.max_new_tokens or (None if found[1] else MAX_NEW_TOKENS)
    return contestants.sampled_alike([found], command.temperature, longest, command.dtype)[0]


def read_prompts(source: str) -> Table:
    """The table with "prompt", and perhaps "answer".

    Raises:
        InvalidData: it cannot be read; line and field are named.
    """
    if source != "-" and Path(source).suffix != ".txt":
        tables = open_source(source)
        if not Path(source).is_file():
            raise InvalidData(f"{source} is not a file.")
        table = tables[0]
    else:
        try:
            text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidData(f"{source} is not UTF-8 text: {error}.") from error
        name, lines = "standard input" if source == "-" else source, text.split("\n")
        if source == "-" and text.lstrip().startswith("{"):
            table = json_table(name, lines)
        else:
            numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
            found = [lines[number - 1].strip() for number in numbers]
            if not found:
                raise InvalidData(f"{name} is empty.")
            table = Table(name, ["prompt"], lambda _, count: found[:count], len(found), lines=numbers)
    if not table.has("prompt"):
        raise table.lacks('a field "prompt"')
    return table


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
    rows = [json.loads(line) for line in whole.splitlines()]
    for number, row in enumerate(rows):
        same = number < len(task.prompts) and row["prompt"] == task.prompts[number]
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
            rounds = zip(prompts[start : start + size], *answer(start), strict=True)
            rows = [
                {"row": row, "prompt": prompt, "answers": list(answers)}
                for row, (prompt, *answers) in enumerate(rounds, start + 1)
            ]
            new = rows[max(0, done - start) :]
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new).encode())
            file.flush()
            os.fsync(file.fileno())
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
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    judge = load_judge(config, default_device(), remember=True)
    prompts, first, *later = zip(*((row["prompt"], *row["answers"]) for row in rows), strict=True)
    of = too_few(len(rows)) or f"{len(rows)} prompts, 95 % bootstrap intervals"
    lines = [f"Preferred to round 1 by the judge of kind {config.kind} ({of.rstrip('.')}):"]
    for number, answers in enumerate(later, 2):
        found = estimate(compare(judge, prompts, answers, first), RESAMPLES, 0)
        lines.append(f"  round {number}: {with_interval(found)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
