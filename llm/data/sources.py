"""Where data come from: local files and data sets of the hub, read as columns."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from slhf.errors import InvalidData, MissingResource
from slhf.names import advice
from slhf.text import read_bytes, read_text, split_lines

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

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")
"""Of local files, each with or without .gz."""

HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""What a surrogate looks like where JSON escapes it."""

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
        values: gives the values of a column, None where a row has none.
        rows: how many.
        side: the split that all rows belong to; None if each row says so, or nothing does.
        lines: the line of each row, for a file of lines.
    """

    name: str
    columns: Sequence[str]
    values: Callable[[str], list[Any]]
    rows: int
    side: Split | None = None
    lines: Sequence[int] | None = None

    def has(self, *columns: str) -> bool:
        """Whether it has all these columns."""
        return set(columns) <= set(self.columns)

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
        values = self.values(column)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise self.malformed(row, column, f"must be a text, not {value!r:.60}")
        return values

    def ratings(self, column: str) -> tuple[list[float], list[float]]:
        """Mean and standard deviation over annotators of a column of numbers or lists of numbers.

        Raises:
            InvalidData: a row has none.
        """
        means, deviations = [], []
        for row, value in enumerate(self.values(column)):
            given = value if isinstance(value, list) else [value]
            numbers = [x for x in map(number, given) if x is not None]
            if not numbers or len(numbers) < len(given):
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


def number(value: Any) -> float | None:
    """A finite number, also one written as a text, as all are in a CSV file; None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def open_source(source: str) -> list[Table]:
    """The tables of a local file or folder, a preset, or a data set of the hub.

    Raises:
        InvalidData: there is no such file, its suffix is not known, or it cannot be read.
        MissingResource: the hub cannot be reached, or has no such data set.
    """
    path = Path(source)
    suffix = suffix_of(path)
    if path.is_file():
        if suffix not in SUFFIXES:
            raise InvalidData(f"{source}: the suffix must be one of {', '.join(SUFFIXES)}, with or without .gz.")
        if suffix == ".parquet":
            return [_read_parquet(path)]
        reader = {".csv": csv_table, ".tsv": csv_table, ".txt": line_table}.get(suffix, json_table)
        return [reader(source, read_text(path))]
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


def suffix_of(path: Path) -> str:
    """The suffix in front of .gz, if there is one, in lower case."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def text_table(name: str, text: str) -> Table:
    """The table of a text that came without a file's name: JSON if it looks like it, else a prompt a line."""
    return (json_table if re.match(r"\s*(\{|\[\s*\{)", text) else line_table)(name, text)


def line_table(name: str, text: str) -> Table:
    """One prompt a line; blank lines are skipped.

    Raises:
        InvalidData: there is none.
    """
    found = [(number, line.strip()) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    return _of_rows(name, [{"prompt": line} for _, line in found], [number for number, _ in found])


def json_table(name: str, text: str) -> Table:
    """JSON objects, one a line (blank lines are skipped) or in one array; an array of texts is one of prompts.

    Read with ``json``: ``datasets`` would guess types (a column of dates is no longer text, one of mixed types becomes
    serialised JSON) and cannot say which line is wrong.

    Raises:
        InvalidData: there is none, or a line or an entry is none.
    """
    if text.lstrip().startswith("["):
        return _json_array(name, text)
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    rows = []
    for number, line in lines:
        try:
            row = _parsed(line, f"{name}, line {number}")
        except InvalidData as error:
            raise InvalidData(f"{error} Give one object a line, or one array of objects.") from error
        if not isinstance(row, dict):
            raise InvalidData(f"{name}, line {number}: not a JSON object, but {line.strip():.60}.")
        if HALF.search(line):
            _refuse_half_characters(row, f"{name}, line {number}")
        rows.append(row)
    return _of_rows(name, rows, [number for number, _ in lines])


def _json_array(name: str, text: str) -> Table:
    rows = _parsed(text, name)
    if all(isinstance(row, str) for row in rows):
        rows = [{"prompt": row} for row in rows]
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        if not isinstance(row, dict):
            raise InvalidData(f"{where}: not a JSON object, but {json.dumps(row):.60}.")
        if HALF.search(text):
            _refuse_half_characters(row, where)
    return _of_rows(name, rows, None)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise InvalidData(f"{where}{line}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise InvalidData(f"{where}: not JSON that can be read ({error}).") from error


def _refuse_half_characters(row: dict[str, Any], where: str) -> None:
    """Half a surrogate pair, which JSON can escape, is in no encoding: no file and no model could take it."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise InvalidData(
            f"{where}: {half} is half a character (a surrogate without its other half), as when a text was cut in the "
            "middle of an emoji; remove it or write the whole character."
        ) from error


def _of_rows(name: str, rows: Sequence[dict[str, Any]], lines: Sequence[int] | None) -> Table:
    if not rows:
        raise InvalidData(f"{name} is empty.")
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def read(column: str) -> list[Any]:
        return [row.get(column) for row in rows]

    return Table(name, columns, read, len(rows), lines=lines)


def csv_table(name: str, text: str) -> Table:
    """Rows with a header. Fields end at what the header holds most of: a comma, a semicolon or a tab.

    There are no types: "NA" and "12" are texts, and an empty field is an empty text.

    Raises:
        InvalidData: there is no row, two columns have one name, or a row has more or fewer fields than the header.
    """
    header = next((line for line in split_lines(text) if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(sys.maxsize)  # the default refuses texts of more than 131,072 characters
    rows, lines, columns, last = [], [], None, 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            line, last = last + 1, reader.line_num
            if not any(field.strip() for field in fields):
                continue
            if columns is None:
                columns = [field.strip() for field in fields]
                double = sorted({name for name in columns if name and columns.count(name) > 1})
                if double:
                    raise InvalidData(f'{name}, line {line}: two columns are called "{double[0]}".')
                continue
            if len(fields) != len(columns):
                raise InvalidData(
                    f"{name}, line {line}: {len(fields)} fields, but the header has {len(columns)}; put texts that "
                    f'contain {repr(delimiter)[1:-1]} or line ends into quotes ("...").'
                )
            rows.append(dict(zip(columns, fields, strict=True)))
            lines.append(line)
    except csv.Error as error:
        raise InvalidData(f'{name}, line {last + 1}: {error}; write a quote within quotes twice ("").') from error
    return _of_rows(name, rows, lines)


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(read_bytes(path)) if path.suffix.lower() == ".gz" else path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidData(f"{path} cannot be read as .parquet: {error}.") from error
    if not file.metadata.num_rows:
        raise InvalidData(f"{path} is empty.")

    def read(column: str) -> list[Any]:
        return [value for chunk in file.read(columns=[column]).column(column).chunks for value in _values(chunk)]

    return Table(str(path), file.schema_arrow.names, read, file.metadata.num_rows)


def _table(name: str, data: datasets.Dataset, side: Split | None) -> Table:
    def read(column: str) -> list[Any]:
        chunks = data.select_columns(column).with_format("arrow")[:].column(0).chunks
        return [value for chunk in chunks for value in _values(chunk)]

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
            f"Give a local file ({', '.join(SUFFIXES)}), or with network run once: "
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
