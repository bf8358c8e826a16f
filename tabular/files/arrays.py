"""Arrays in .npy and JSON files."""

from __future__ import annotations

import io
import json
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
    if file.name.lower().removesuffix(".gz").endswith(".jsonl"):
        found = []
        for number, line in enumerate(split_lines(text), 1):
            if line.strip():
                try:
                    found.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise InvalidData(f"{file}: line {number}, column {error.colno}: {error.msg}.") from error
        return found
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidData(f"{file}: line {error.lineno}, column {error.colno}: {error.msg}.") from error


def interpret(file: Path, content: Any) -> Table | tuple[Any, list[str] | None, str]:
    """JSON as a table of cells (a list of objects) or as nested lists, their labels and what they are.

    Raises:
        InvalidData: it is neither.
    """
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        return _table(file, content)
    if not isinstance(content, dict):
        return content, None, "probabilities"
    labels = content.get("labels")
    if {"columns", "data"} <= set(content):  # of pandas, orient="split"
        return _split(file, content)
    key = next((key for key in KEYS if key in content), None)
    if key is None:
        keys = ", ".join(map(repr, list(content)[:5]))
        raise InvalidData(
            f'{file}: holds an object with the keys {keys}, without the key "p" (or "wins"), where a matrix goes. '
            f'From pandas, write orient="split" or "records".'
        )
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise InvalidData(f'{file}: "labels" must be a list of strings.')
    return content[key], labels, KEYS[key]


def numbers_of(file: Path, content: Any) -> NDArray[Any]:
    """Nested lists as an array.

    Raises:
        InvalidData: they hold no numbers, or are not equally long.
    """
    try:
        return np.asarray(real(content), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidData(
            f"{file}: the matrix must be nested lists of numbers, all rows equally long; what is read is {FORMS}."
        ) from error


def has_blanks(content: Any) -> bool:
    """Whether nested lists are a matrix in which some entry is null."""
    return (
        isinstance(content, list)
        and all(isinstance(row, list) for row in content)
        and any(cell is None for row in content for cell in row)
    )


def cells_table(file: Path, rows: list[list[Any]], header: list[str] | None = None) -> Table:
    """Nested lists as a table of text."""
    top = [] if header is None else [Row("the header", header)]
    return Table(file, top + [Row(f"row {k}", [_cell(cell) for cell in row]) for k, row in enumerate(rows, 1)])


def _table(file: Path, records: list[dict[str, Any]]) -> Table:
    """Objects as rows; the keys of the first are the header."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [Row("the first object", keys)]
    for number, record in enumerate(records, 1):
        rows.append(Row(f"object {number}", [_cell(record.get(key)) for key in keys]))
    return Table(file, rows)


def _split(file: Path, content: dict[str, Any]) -> Table:
    columns = [str(name) for name in content["columns"]]
    names = content.get("index")
    if names is None:
        return cells_table(file, content["data"], columns)
    rows = [[name, *row] for name, row in zip(names, content["data"], strict=False)]
    return cells_table(file, rows, ["", *columns])


def _cell(value: Any) -> str:
    """A value as a table would hold it."""
    return "" if value is None else value.strip() if isinstance(value, str) else str(value)
