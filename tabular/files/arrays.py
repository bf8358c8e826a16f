"""Arrays in .npy and JSON files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidData
from slhf.text import split_lines
from tabular.arrays import real
from tabular.files.contents import FORMS, Matrix, Options
from tabular.files.matrices import balanced, scaled
from tabular.files.tables import Row, Table

KEYS = {"p": "probabilities", "wins": "wins"}
"""Where an object holds its matrix, and what that is."""


def read_npy(file: Path, data: bytes) -> NDArray[Any]:
    """The array in a .npy file, in its own precision.

    Raises:
        InvalidData: it holds none, or no real numbers.
    """
    if not data.startswith(b"\x93NUMPY"):
        raise InvalidData(f"{file}: is not a .npy file; numpy.save writes one.")
    try:
        return real(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise InvalidData(f"{file}: is not a .npy array of numbers: {error}.") from error


def matrix_of(file: Path, array: NDArray[Any], labels: list[str] | None, options: Options, kind: str) -> Matrix:
    """An array ``(..., n, n)`` as preferences or, where ``kind`` or the options say so, wins."""
    values = np.asarray(array, dtype=np.float64)
    if kind == "wins" or options.counts:
        options.allow(file, "counts", "counts")
        return Matrix("wins", values, labels)
    options.allow(file, "a matrix", "percent", "symmetrise")
    values, notes = scaled(values, options)
    if values.ndim < 2 or values.shape[-1] != values.shape[-2]:
        return Matrix("probabilities", values, labels, tuple(notes))  # PreferenceMatrix says what is wrong
    short = array.dtype.kind == "f" and array.dtype.itemsize < 8
    precision = 2 * float(np.finfo(array.dtype).eps) if short else 0.0
    values, more = balanced(values, options, precision)
    notes += [f"{array.dtype} numbers: {said}" for said in more] if short else more
    return Matrix("probabilities", values, labels, tuple(notes))


def read_json(file: Path, text: str) -> Any:
    """What a JSON file holds; of JSON lines, the list of them.

    Raises:
        InvalidData: names the line and column that is no JSON.
    """
    if not file.name.lower().removesuffix(".gz").endswith(".jsonl"):
        return _decoded(file, text, 1)
    return [_decoded(file, line, k) for k, line in enumerate(split_lines(text), 1) if line.strip()]


def _decoded(file: Path, text: str, first_line: int) -> Any:
    if not text.strip():
        raise InvalidData(f"{file}: is empty.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InvalidData(f"{file}: line {line}, column {error.colno}: {error.msg}.") from error
    except RecursionError:
        raise InvalidData(f"{file}: line {first_line}: is nested too deeply to be a table.") from None


@dataclass(frozen=True)
class Nested:
    """Nested lists, their labels, if any, and whether they are "probabilities" or "wins"."""

    content: Any
    labels: list[str] | None
    kind: str


def interpret(file: Path, content: Any) -> Table | Nested:
    """JSON as a table of cells (a list of objects, or what pandas writes with orient="split") or as nested lists.

    Raises:
        InvalidData: it is neither.
    """
    if isinstance(content, list):
        if not content:
            raise InvalidData(f"{file}: is empty.")
        objects = [isinstance(item, dict) for item in content]
        if len(set(objects)) > 1:
            k = objects.index(not objects[0])
            raise InvalidData(f"{file}: item {k + 1} is {_json(content[k])}; all must be objects, or all lists.")
        return _table(file, content) if isinstance(content[0], dict) else Nested(content, None, "probabilities")
    if not isinstance(content, dict):
        raise InvalidData(f"{file}: holds {_json(content)}; what is read is {FORMS}.")
    if {"columns", "data"} <= set(content):
        return _split(file, content)
    labels = content.get("labels")
    key = next((key for key in KEYS if key in content), None)
    if key is None:
        keys = ", ".join(map(repr, list(content)[:5])) or "none"
        raise InvalidData(
            f'{file}: holds an object with the keys {keys}, without the key "p" (or "wins"), where a matrix goes. '
            f'From pandas, write orient="split" or "records".'
        )
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise InvalidData(f'{file}: "labels" must be a list of strings.')
    return Nested(content[key], labels, KEYS[key])


def numbers_of(file: Path, content: Any) -> NDArray[Any]:
    """Nested lists as an array.

    Raises:
        InvalidData: they hold no numbers, or are not equally long.
    """
    try:
        return np.asarray(real(content), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidData(f"{file}: the matrix must be nested lists of numbers, all rows equally long.") from error


def has_blanks(content: Any) -> bool:
    """Whether nested lists are a matrix in which some entry is null or NaN."""
    return (
        isinstance(content, list)
        and all(isinstance(row, list) for row in content)
        and any(cell is None or cell != cell for row in content for cell in row)
    )


def cells_table(file: Path, rows: list[list[Any]], header: list[str] | None = None) -> Table:
    """Nested lists as a table of text."""
    top = [] if header is None else [Row("the header", header)]
    return Table(file, top + [Row(f"row {k}", [_cell(cell) for cell in row]) for k, row in enumerate(rows, 1)])


def _table(file: Path, records: list[dict[str, Any]]) -> Table:
    """Objects as rows; the keys of the first are the header."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    if not keys:
        raise InvalidData(f"{file}: its objects are empty.")
    rows = [Row("the first object", keys)]
    for number, record in enumerate(records, 1):
        rows.append(Row(f"object {number}", [_cell(record.get(key)) for key in keys]))
    return Table(file, rows)


def _split(file: Path, content: dict[str, Any]) -> Table:
    columns, data, names = content["columns"], content["data"], content.get("index")
    lists = isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data)
    if not lists or (names is not None and not (isinstance(names, list) and len(names) == len(data))):
        raise InvalidData(
            f'{file}: "columns" and "index" must be lists of names, "data" as many lists as "index" names.'
        )
    top = [str(name) for name in columns]
    if names is None:
        return cells_table(file, data, top)
    return cells_table(file, [[name, *row] for name, row in zip(names, data, strict=True)], ["", *top])


def _json(value: Any) -> str:
    """A value for an error, in a few words."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _cell(value: Any) -> str:
    """A value as a table would hold it."""
    return "" if value is None else value.strip() if isinstance(value, str) else str(value)
