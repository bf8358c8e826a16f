"""Where data come from: local files and data sets of the hub, read by the ``datasets`` library as columns."""

from __future__ import annotations

import difflib
import gzip
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from slhf.errors import InvalidData, MissingResource

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

READERS = {".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
"""Suffixes of local files, each with or without .gz, and the builder of ``datasets`` that reads them."""

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
        data: the rows.
        side: the split that all rows belong to; None if each row says so, or nothing does.
    """

    name: str
    data: datasets.Dataset
    side: Split | None

    def has(self, *columns: str) -> bool:
        """Whether it has all these columns."""
        return set(columns) <= set(self.data.column_names)

    def holds_text(self, column: str) -> bool:
        """Whether the column is there and made of texts (not of messages)."""
        return self.has(column) and str(getattr(self.data.features[column], "dtype", "")).endswith("string")

    def holds_messages(self, column: str) -> bool:
        """Whether the column is there and made of lists of objects with texts "role" and "content"."""
        inner = getattr(self.data.features[column], "feature", None) if self.has(column) else None
        return isinstance(inner, dict) and all(
            str(getattr(inner.get(key), "dtype", "")).endswith("string") for key in Message.__annotations__
        )

    def place(self, row: int) -> str:
        """Where a row (from 0) is, for messages: a line of a JSONL file, else a row, counted from 1."""
        if ".jsonl" in Path(self.name).suffixes:
            numbers = [number for number, line in _lines(Path(self.name)) if line.strip()]
            return f"{self.name}, line {numbers[row]}" if row < len(numbers) else f"{self.name}, row {row + 1}"
        return f"{self.name}, row {row + 1}"

    def malformed(self, row: int, field: str, problem: str) -> InvalidData:
        """The error for a row that cannot be read."""
        return InvalidData(f'{self.place(row)}: "{field}" {problem}.')

    def texts(self, column: str) -> list[str]:
        """A column of texts.

        Raises:
            InvalidData: a row has none.
        """
        values = self._chunked(column).to_pylist() if self.holds_text(column) else list(self.data[column])
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise self.malformed(row, column, f"must be a text, not {value!r:.60}")
        return values

    def messages(self, column: str) -> list[list[Message]]:
        """A column of conversations, each a list of objects with texts "role" and "content".

        Raises:
            InvalidData: a row has none.
        """
        found: list[list[Message]] = []
        for chunk in self._chunked(column).chunks if self.holds_messages(column) else ():
            turns = chunk.flatten()
            roles, contents = turns.field("role").to_pylist(), turns.field("content").to_pylist()
            flat = [Message(role=role, content=content) for role, content in zip(roles, contents, strict=True)]
            ends = np.cumsum(chunk.value_lengths().fill_null(0)).tolist()
            found += [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        found = found or list(self.data[column])
        for row, conversation in enumerate(found):
            if not _are_messages(conversation):
                problem = 'must be a list of messages, objects with texts "role" and "content", not'
                raise self.malformed(row, column, f"{problem} {conversation!r:.60}")
        return found

    def ratings(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over annotators of a column of numbers or lists of numbers, each (rows,).

        Raises:
            InvalidData: a row has none.
        """
        means, deviations = [], []
        for row, value in enumerate(self._chunked(column).to_pylist()):
            numbers = value if isinstance(value, list) else [value]
            if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
                raise self.malformed(row, column, f"must be a rating or a list of them, not {value!r:.60}")
            means.append(sum(numbers) / len(numbers))
            deviations.append(math.sqrt(sum((x - means[-1]) ** 2 for x in numbers) / len(numbers)))
        return np.array(means), np.array(deviations)

    def sides(self) -> Sequence[Split | None]:
        """The split of each row; None where the data have no say.

        Raises:
            InvalidData: the column "split" holds another word.
        """
        if self.side is not None or not self.has("split"):
            return [self.side] * len(self.data)
        names = self.texts("split")
        for row, name in enumerate(names):
            if name not in SIDES:
                raise self.malformed(row, "split", f"is {name!r}; it must be one of {', '.join(SIDES)}")
        return [SIDES[name] for name in names]

    def lacks(self, wanted: str) -> InvalidData:
        """The error for a table without the columns that are needed."""
        return InvalidData(f"{self.name} needs {wanted}; its columns are {', '.join(self.data.column_names)}.")

    def _chunked(self, column: str) -> Any:
        return self.data.with_format("arrow")[:].column(column)


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
        if suffix not in READERS:
            raise InvalidData(f"{source}: the suffix must be one of {', '.join(READERS)}, with or without .gz.")
        return [_read_file(path, READERS[suffix])]
    if path.is_dir():
        return _read_repository(source, source, None)
    if suffix in READERS or source.startswith((".", "/", "~")):
        raise InvalidData(f"There is no file {source!r}.")
    repository = PRESETS.get(source, source)
    owner, slash, rest = repository.partition("/")
    if not slash:
        near = difflib.get_close_matches(source, PRESETS, n=1, cutoff=0.5)
        advice = f"Did you mean {near[0]!r}?" if near else f"Presets are {', '.join(PRESETS)}."
        raise InvalidData(f"{source!r} is no file, no preset and no id of a data set (owner/name). {advice}")
    name, _, folder = rest.partition("/")
    return _read_repository(source, f"{owner}/{name}", folder or None)


def _read_file(path: Path, reader: str) -> Table:
    """One local file.

    Raises:
        InvalidData: it is empty or cannot be read; a bad line of JSON is named.
    """
    import datasets

    options: dict[str, Any] = {"keep_default_na": False} if reader == "csv" else {}
    try:
        with _quietly(), _without_bars():
            data = datasets.load_dataset(reader, data_files=str(path), split="train", **options)
    except StopIteration:
        raise InvalidData(f"{path} is empty.") from None
    except (datasets.exceptions.DatasetsError, ValueError) as error:  # ValueError: Arrow's errors and wrong encodings
        if reader == "json":
            _check_json(path)
        raise InvalidData(f"{path} cannot be read as {path.suffix}: {error.__cause__ or error}.") from error
    if reader == "csv" and "__index_level_0__" in data.column_names:
        raise InvalidData(f"{path}: rows have more fields than the header; quote texts that contain commas.")
    if reader == "json" and not str(next(line for _, line in _lines(path) if line.strip())).lstrip().startswith("{"):
        _check_json(path)
    return Table(str(path), data, None)


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
    tables = [Table(f"{source} ({name})", found[name], side) for side, name in names.items()]
    if "heldout" not in names:
        return [Table(table.name, table.data, None) for table in tables]
    return tables


def _check_json(path: Path) -> None:
    """Name the first line that is not a JSON object."""
    for number, line in _lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InvalidData(f"{path}, line {number}: not JSON ({error.msg}).") from error
            if not isinstance(row, dict):
                raise InvalidData(f"{path}, line {number}: not a JSON object, but {line.strip():.60}.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        try:
            yield from enumerate(file, 1)
        except UnicodeDecodeError as error:
            raise InvalidData(f"{path} is not UTF-8 text: {error}.") from error


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
