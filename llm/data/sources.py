"""Where data come from: local files and data sets of the hub, read by the ``datasets`` library as columns."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from slhf.errors import InvalidData, MissingResource
from slhf.names import advice

if TYPE_CHECKING:
    import datasets

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

PRESETS = {
    "helpsteer2": "nvidia/HelpSteer2/disagreements",
    "ultrafeedback": "HuggingFaceH4/ultrafeedback_binarized",
    "tulu3": "allenai/llama-3.1-tulu-3-8b-preference-mixture",
    "hh": "Anthropic/hh-rlhf",
}
"""Data sets of the hub by a short name. What follows owner and name is a folder of the repository."""

SUFFIXES = (".jsonl", ".parquet", ".csv")
"""Of local files, each with or without .gz."""

TEXTS = ("prompt", "response", "chosen", "rejected", "split")
"""Columns that can hold texts."""

SIDES: dict[str, Split] = {
    "train_prefs": "train",
    "train": "train",
    "test_prefs": "heldout",
    "heldout": "heldout",
    "test": "heldout",
    "validation": "heldout",
    "val": "heldout",
}
"""What names of splits mean. Of several splits for one side the first in this order is read."""


class Message(TypedDict):
    """One turn of a conversation; the role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Table:
    """Rows read as columns.

    Attributes:
        name: what messages call it: a file, or a data set and its split.
        columns: the names of its columns.
        read: gives the values of a column, None where a row has none; all, or of the first so many rows.
        rows: how many.
        side: the split that all rows belong to; None if each row says so, or nothing does.
        lines: the line of each row, for a file of lines.
    """

    name: str
    columns: Sequence[str]
    read: Callable[[str, int | None], list[Any]]
    rows: int
    side: Split | None = None
    lines: Sequence[int] | None = None

    def has(self, *columns: str) -> bool:
        """Whether it has all these columns."""
        return set(columns) <= set(self.columns)

    def holds_messages(self, column: str) -> bool:
        """Whether the column is there and its first value is a list."""
        return self.has(column) and isinstance(self.read(column, 1)[0], list)

    def malformed(self, row: int, field: str, problem: str) -> InvalidData:
        """The error for a row (from 0) that cannot be read."""
        return InvalidData(f'{self.place(row)}: "{field}" {problem}.')

    def place(self, row: int) -> str:
        """Where a row (from 0) is, for messages: its line in the file, else its number, counted from 1."""
        return f"{self.name}, row {row + 1}" if self.lines is None else f"{self.name}, line {self.lines[row]}"

    def texts(self, column: str) -> list[str]:
        """A column of texts.

        Raises:
            InvalidData: a row has none.
        """
        values = self.read(column, None)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise self.malformed(row, column, f"must be a text, not {value!r:.60}")
        return values

    def messages(self, column: str) -> list[list[Message]]:
        """A column of conversations, each a list of objects with texts "role" and "content".

        Raises:
            InvalidData: a row has none.
        """
        values = self.read(column, None)
        for row, conversation in enumerate(values):
            if not _are_messages(conversation):
                problem = 'must be a list of messages, objects with texts "role" and "content", not'
                raise self.malformed(row, column, f"{problem} {conversation!r:.60}")
        return [[Message(role=turn["role"], content=turn["content"]) for turn in turns] for turns in values]

    def ratings(self, column: str) -> tuple[list[float], list[float]]:
        """Mean and standard deviation over annotators of a column of numbers or lists of numbers.

        Raises:
            InvalidData: a row has none.
        """
        means, deviations = [], []
        for row, value in enumerate(self.read(column, None)):
            numbers = value if isinstance(value, list) else [value]
            if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
                raise self.malformed(row, column, f"must be a rating or a list of them, not {value!r:.60}")
            means.append(sum(numbers) / len(numbers))
            deviations.append(math.sqrt(sum((x - means[-1]) ** 2 for x in numbers) / len(numbers)))
        return means, deviations

    def sides(self) -> Sequence[Split | None]:
        """The split of each row; None where the data have no say.

        Raises:
            InvalidData: the column "split" holds another word.
        """
        if self.side is not None or not self.has("split"):
            return [self.side] * self.rows
        names = self.texts("split")
        for row, name in enumerate(names):
            if name not in SIDES:
                raise self.malformed(row, "split", f"is {name!r}; it must be one of {', '.join(SIDES)}")
        return [SIDES[name] for name in names]

    def lacks(self, wanted: str) -> InvalidData:
        """The error for a table without the columns that are needed."""
        return InvalidData(f"{self.name} needs {wanted}; its columns are {', '.join(self.columns)}.")


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in value
    )


def open_source(source: str) -> list[Table]:
    """The tables of a local file or folder, a preset, or a data set of the hub.

    Raises:
        InvalidData: there is no such file, its suffix is not known, or it cannot be read.
        MissingResource: the hub cannot be reached, or has no such data set.
    """
    path = Path(source)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if path.is_file():
        if suffix not in SUFFIXES:
            raise InvalidData(f"{source}: the suffix must be one of {', '.join(SUFFIXES)}, with or without .gz.")
        return [_read_jsonl(path) if suffix == ".jsonl" else _read_columns(path, suffix)]
    if path.is_dir():
        return _read_repository(source, source, None)
    if suffix in SUFFIXES or source.startswith((".", "/", "~")):
        raise InvalidData(f"There is no file {source!r}.")
    repository = PRESETS.get(source, source)
    owner, slash, rest = repository.partition("/")
    if not slash:
        raise InvalidData(
            f"{source!r} is no file, no preset and no id of a data set (owner/name); "
            f"of presets {advice(source, PRESETS)}"
        )
    name, _, folder = rest.partition("/")
    return _read_repository(source, f"{owner}/{name}", folder or None)


def _read_jsonl(path: Path) -> Table:
    """A file of JSON objects, one a line.

    Read with ``json``: ``datasets`` would guess types (a column of dates is no longer text, one of mixed types becomes
    serialised JSON) and cannot say which line is wrong.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        try:
            return json_table(str(path), file)
        except UnicodeDecodeError as error:
            raise InvalidData(f"{path} is not UTF-8 text: {error}.") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidData(f"{path} is not a whole .gz file: {error}.") from error


def json_table(name: str, file: Iterable[str]) -> Table:
    """The table of lines that are JSON objects; blank ones are skipped.

    Raises:
        InvalidData: there is none, or a line is none.
    """
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(file, 1):
        if line.strip():
            rows.append(_json_object(line, f"{name}, line {number}"))
            lines.append(number)
    if not rows:
        raise InvalidData(f"{name} is empty.")
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def read(column: str, count: int | None) -> list[Any]:
        return [row.get(column) for row in rows[:count]]

    return Table(name, columns, read, len(rows), lines=lines)


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidData(f"{where}: not JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise InvalidData(f"{where}: not a JSON object, but {line.strip():.60}.")
    return row


def _read_columns(path: Path, suffix: str) -> Table:
    """A Parquet or CSV file.

    Raises:
        InvalidData: it is empty or cannot be read.
    """
    import datasets

    # a CSV has no types: "NA" and "12" are texts where a text belongs
    options: dict[str, Any] = {"keep_default_na": False, "converters": dict.fromkeys(TEXTS, str)}
    try:
        with _quietly(), _without_bars():
            data = datasets.load_dataset(
                suffix[1:], data_files=str(path), split="train", **(options if suffix == ".csv" else {})
            )
    except StopIteration:
        raise InvalidData(f"{path} is empty.") from None
    except (datasets.exceptions.DatasetsError, ValueError) as error:  # ValueError: Arrow's errors and wrong encodings
        raise InvalidData(f"{path} cannot be read as {suffix}: {error.__cause__ or error}.") from error
    if "__index_level_0__" in data.column_names:
        raise InvalidData(f"{path}: rows have more fields than the header; quote texts that contain commas.")
    return _table(str(path), data, None)


def _table(name: str, data: datasets.Dataset, side: Split | None) -> Table:
    def read(column: str, count: int | None) -> list[Any]:
        values: list[Any] = []
        for chunk in data.select_columns(column).with_format("arrow")[:count].column(0).chunks:
            values += _values(chunk)
        return values

    return Table(name, data.column_names, read, len(data), side)


def _values(array: Any) -> list[Any]:
    """An Arrow array as Python values; lists of structs without the detour over Arrow's scalars."""
    if not str(array.type).startswith("list<") or not str(array.type.value_type).startswith("struct<"):
        return array.to_pylist()
    turns = array.flatten()
    names = [field.name for field in turns.type]
    flat = [
        dict(zip(names, row, strict=True)) for row in zip(*(turns.field(n).to_pylist() for n in names), strict=True)
    ]
    ends = [0, *itertools.accumulate(length or 0 for length in array.value_lengths().to_pylist())]
    valid = array.is_valid().to_pylist()
    return [flat[start:end] if ok else None for start, end, ok in zip(ends, ends[1:], valid, strict=False)]


def _read_repository(source: str, repository: str, folder: str | None) -> list[Table]:
    """The splits of a data set that hold what we are after: at most one for training and one held out.

    Raises:
        MissingResource: it is not to be had.
        InvalidData: it has no split whose name we know.
    """
    import datasets

    try:
        with _quietly():
            found = datasets.load_dataset(repository, data_dir=folder)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        arguments = f"{repository!r}" + (f", data_dir={folder!r}" if folder else "")
        raise MissingResource(
            f"Cannot load the data set {source!r}: {' '.join(str(error).split())} "
            "Give a local file (.jsonl, .parquet, .csv), or with network run once: "
            f'python -c "import datasets; datasets.load_dataset({arguments})"; after that it is read from the cache, '
            "at once with HF_HUB_OFFLINE=1."
        ) from error
    names: dict[Split, str] = {}
    for name, side in SIDES.items():
        if name in found:
            names.setdefault(side, name)
    if "train" not in names:
        raise InvalidData(f"{source} has the splits {', '.join(found)}, and none of train, train_prefs.")
    own = "heldout" in names
    return [_table(f"{source} ({name})", found[name], side if own else None) for side, name in names.items()]


@contextmanager
def _quietly() -> Iterator[None]:
    """Within this context the libraries do not log what we report ourselves."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Within this context reading a file draws no progress bar."""
    import datasets

    before = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if before:
            datasets.enable_progress_bars()
