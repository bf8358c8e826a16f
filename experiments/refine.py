"""``python experiments/refine.py PROMPTS``: let a Follower improve a model's answers, round after round."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

from experiments import process
from llm import checkpoint, embedded
from llm.data.sources import Table, json_table, open_source
from llm.evaluate import bootstrap
from llm.generation import Generator, TransformersGenerator
from llm.judges import ask
from llm.judges.config import AttributeJudgeConfig, load_judge
from llm.policy import FOLLOWER, LoRA, Policy, default_device
from llm.refine import refine
from slhf.errors import ConfigError, InvalidData, InvalidParameter, RunError, SLHFError, require_at_least
from slhf.runs import sync, write_json

TEMPERATURE, MAX_NEW_TOKENS = 0.7, 128
"""Where neither the command nor a run says otherwise."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Command:
    """Refine answers: the Leader answers each prompt, then the Follower improves the answer, again and again.

    Writes one JSON object per prompt, {"row": 1, "prompt": ..., "answers": [round 1, round 2, ...]}, as soon as it
    has them. Start the same command again after an interruption: it goes on where it stopped, and the result is the
    one of an uninterrupted run. Settings are kept beside the output, in NAME.settings.json.

    Examples:
      python experiments/refine.py prompts.txt
      echo "Why is the sky blue?" | python experiments/refine.py - --rounds 4 --judge
      python experiments/refine.py prompts.jsonl --adapter runs/quickstart/stackelberg_gda-HASH --out refined.jsonl
      python experiments/refine.py prompts.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
          --follower embedded --follower-adapter runs/quickstart/stackelberg_gda-HASH
      python experiments/refine.py answered.jsonl --follower-adapter runs/quickstart/stackelberg_gda-HASH
    """

    prompts: tyro.conf.Positional[str]
    """A .txt file, one prompt a line; a .jsonl, .csv or .parquet file with a field "prompt", and perhaps "answer": it
    is then round 1, and no Leader is asked; or - for standard input, lines of text or of JSON."""
    model: str | None = None
    """The Leader: "embedded", a directory or a hub id. By default what --adapter was trained on, else "embedded"."""
    adapter: Path | None = None
    """The Leader's trained weights: a run directory (its latest checkpoint is taken), a checkpoint or an adapter."""
    follower: str | None = None
    """The Follower's model, where it is another. By default what --follower-adapter was trained on, else the Leader
    plays both roles."""
    follower_adapter: Path | None = None
    """The Follower's trained weights, as for --adapter."""
    out: Path = Path("refined.jsonl")
    """Where the answers go."""
    rounds: int = 3
    """Answers per prompt, the first one included."""
    temperature: float | None = None
    """Sampling temperature; by default each run's own, else 0.7."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; by default the Follower's run's own, else 128."""
    batch_size: int = 8
    """Prompts at a time."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the base weights."""
    seed: int = 0
    """Of all draws; each prompt draws from a stream of its own."""
    judge: bool = False
    """In the end, print how often each round is preferred to round 1 by the judge of text attributes."""


@dataclass(frozen=True)
class Weights:
    """What to load for a role: a model, and the folder of its adapter."""

    model: str
    adapter: Path | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 after an error (one line on standard error), 130 when interrupted."""
    help_text = inspect.cleandoc(Command.__doc__ or "")
    try:
        command = tyro.cli(Command, args=arguments, prog="python experiments/refine.py", description=help_text)
        process.prepare()
        embedded.refuse_foreign_llm()
        run(command)
    except (SLHFError, OSError) as error:  # OSError: an output that cannot be written, a full disk
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


def check_options(command: Command) -> None:
    """Refuse numbers out of range (not when parsing: the parser would make it an error of its own).

    Raises:
        InvalidParameter: naming the option.
    """
    require_at_least(command, rounds=2 if command.judge else 1, batch_size=1, max_new_tokens=1)
    if command.temperature is not None and not command.temperature > 0:
        raise InvalidParameter(f"Command.temperature = {command.temperature}: must be positive.")


def run(command: Command) -> None:
    """Read, refine what is not yet there, and judge if asked to."""
    check_options(command)
    table = read_prompts(command.prompts)
    prompts = table.texts("prompt")
    first = table.texts("answer") if table.has("answer") else None
    for row, prompt in enumerate(prompts):
        if not prompt.strip():
            raise table.malformed(row, "prompt", "is empty")
    if first is not None and (command.model or command.adapter):
        raise ConfigError(f'{table.name} gives first answers ("answer"): leave out --model and --adapter.')
    leader, follower = find_weights(command)
    settings = settings_of(command, leader, follower, given=first is not None)
    with opened(command.out, settings) as file:
        done = resume(file, command.out, prompts, first)
        if done < len(prompts):
            refine_rest(command, settings, leader, follower, prompts, first, file, done)
    if command.judge:
        print(verdict(command.out))
    print(f"Answers: {command.out}", file=sys.stderr)


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


def find_weights(command: Command) -> tuple[Weights, Weights]:
    """What the Leader and the Follower are; the same object if one model plays both roles.

    Raises:
        ConfigError: an adapter is not there.
    """
    leader = weights_at(command.model, command.adapter)
    if command.follower is None and command.follower_adapter is None:
        return leader, leader
    return leader, weights_at(command.follower, command.follower_adapter)


def weights_at(model: str | None, path: Path | None) -> Weights:
    """The weights of a run directory, a checkpoint, an adapter, or a bare model.

    Raises:
        ConfigError: there are none at ``path``.
    """
    if path is None:
        return Weights(model or "embedded")
    if not path.is_dir():
        raise ConfigError(f"There is no directory {path}; give a run, a checkpoint or an adapter.")
    found = path
    if (path / "manifest.json").is_file():
        latest = checkpoint.latest(path)
        if latest is None:
            raise ConfigError(f"The run {path} holds no checkpoint yet.")
        found = latest
    if (found / "adapter").is_dir():
        found = found / "adapter"
    trained = run_settings(found)
    if (found / "adapter_config.json").is_file():
        recorded = json.loads((found / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        name, adapter = model or trained.get("name") or recorded, found
    elif (found / "config.json").is_file():  # all weights were trained, without an adapter
        if model is not None:
            raise ConfigError(f"{found} is a whole model; give it alone, without a model for it.")
        name, adapter = str(found), None
    else:
        raise ConfigError(f"{path} is neither a run, nor a checkpoint, nor an adapter (no adapter_config.json).")
    return Weights(name, adapter, trained.get("temperature"), trained.get("max_new_tokens"))


def run_settings(adapter: Path) -> dict[str, Any]:
    """What the run that an adapter belongs to says of its model; empty for one that stands alone."""
    manifest = adapter.resolve().parent.parent / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["config"]["model"] if manifest.is_file() else {}


def settings_of(command: Command, leader: Weights, follower: Weights, given: bool) -> dict[str, Any]:
    """All that the answers depend on, beside the prompts."""

    def of(weights: Weights) -> dict[str, Any]:
        return {
            "model": weights.model,
            "adapter": None if weights.adapter is None else str(weights.adapter.resolve()),
            "temperature": command.temperature or weights.temperature or TEMPERATURE,
        }

    return {
        "leader": "given" if given else of(leader),
        "follower": of(follower),
        "rounds": command.rounds,
        "max_new_tokens": command.max_new_tokens or follower.max_new_tokens or MAX_NEW_TOKENS,
        "batch_size": command.batch_size,
        "dtype": command.dtype,
        "seed": command.seed,
    }


@contextmanager
def opened(out: Path, settings: dict[str, Any]) -> Iterator[IO[bytes]]:
    """The output for reading and appending, ours alone, and begun with the same settings.

    Raises:
        RunError: another process writes it, or it was begun with other settings.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f"{out.stem}.settings.json")
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


def resume(file: IO[bytes], out: Path, prompts: list[str], first: list[str] | None) -> int:
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
        same = number < len(prompts) and row["prompt"] == prompts[number]
        if not same or (first is not None and row["answers"][0] != first[number]):
            raise RunError(f"{out}, line {number + 1} is of another prompt or first answer; give another --out.")
    return len(rows)


def refine_rest(
    command: Command,
    settings: dict[str, Any],
    leader: Weights,
    follower: Weights,
    prompts: list[str],
    first: list[str] | None,
    file: IO[bytes],
    done: int,
) -> None:
    """Append the rows from ``done`` on.

    Batches start at multiples of the batch size whatever was interrupted, since rounding may depend on the rows of a
    batch: one that was cut short is computed again as a whole.
    """
    device = default_device()
    player = load(follower, settings["follower"], command, device)
    asked = player
    if first is None and leader is not follower:
        asked = load(leader, settings["leader"], command, device)
    with tqdm(total=len(prompts), initial=done, desc="refining", unit="prompt") as bar:
        for start in range(done - done % command.batch_size, len(prompts), command.batch_size):
            batch = slice(start, start + command.batch_size)
            rounds = refine(
                *asked,
                prompts[batch],
                command.rounds,
                settings["max_new_tokens"],
                command.seed,
                follower=player,
                first=None if first is None else first[batch],
                first_row=start,
            )
            new = [
                {"row": start + i + 1, "prompt": prompt, "answers": list(answers)}
                for i, (prompt, *answers) in enumerate(zip(prompts[batch], *rounds, strict=True))
                if start + i >= done
            ]
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new).encode())
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(new))
    sync(command.out.resolve().parent)


def load(weights: Weights, settings: dict[str, Any], command: Command, device: str) -> tuple[Policy, Generator]:
    """The policy that plays a role, and its sampler."""
    if weights.adapter is None:
        policy = Policy.untrained(weights.model, settings["temperature"], command.dtype, device)
    else:
        policy = Policy.load(
            weights.model,
            lora_of(weights.adapter),
            weights.adapter,
            temperature=settings["temperature"],
            dtype=command.dtype,
            device=device,
            sharing="two" if (weights.adapter / FOLLOWER).is_dir() else "one",
        )
    return policy, TransformersGenerator(policy)


def lora_of(adapter: Path) -> LoRA:
    """The shape that an adapter has.

    Raises:
        ConfigError: it is not a LoRA adapter on modules given by name.
    """
    found = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if found.get("peft_type") != "LORA" or not isinstance(found.get("target_modules"), list):
        raise ConfigError(f"{adapter} is not a LoRA adapter with a list of modules.")
    layers = found.get("layers_to_transform")
    return LoRA(found["r"], found["lora_alpha"], layers and len(layers), tuple(sorted(found["target_modules"])))


def verdict(out: Path) -> str:
    """How each round fares against the first, with the bootstrap's interval over prompts."""
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    judge = load_judge(AttributeJudgeConfig(), default_device(), remember=True)
    prompts, first, *later = zip(*((row["prompt"], *row["answers"]) for row in rows), strict=True)
    lines = [f"Preferred to round 1 (judge of text attributes, {len(rows)} prompts, 95 % bootstrap intervals):"]
    for number, answers in enumerate(later, 2):
        p = ask(judge, prompts, answers, first)
        low, high = bootstrap(p, RESAMPLES, 0)
        lines.append(f"  round {number}: {p.mean():.3f} [{low:.2f}, {high:.2f}]")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
