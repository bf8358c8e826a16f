"""Matrices in files, for the command line and :meth:`PreferenceMatrix.load`.

- ``.npy``: an array of shape ``(..., n, n)``.
- ``.json``: nested lists, or ``{"p": nested lists, "labels": [...]}``.
- ``.csv``: n rows of n numbers, separated by commas. A first row of labels is recognised by holding no
  number; a first column of labels by the rows being one longer than the matrix.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidData


def read_matrix(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], list[str] | None]:
    """The matrix in a file and its labels, if the file gives any.

    Raises:
        InvalidData: names the file, and the row and column where there is one.
    """
    file = Path(path)
    readers = {".csv": _read_csv, ".npy": _read_npy, ".json": _read_json}
    if file.suffix.lower() not in readers:
        raise InvalidData(f"{file}: unknown kind of file {file.suffix!r}; use one of {', '.join(readers)}.")
    try:
        return readers[file.suffix.lower()](file)
    except OSError as error:
        raise InvalidData(f"{file}: cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidData(f"{file}: is not text in UTF-8: {error.reason}.") from error


def _read_npy(file: Path) -> tuple[NDArray[np.float64], None]:
    try:
        return np.asarray(np.load(file, allow_pickle=False), dtype=np.float64), None
    except (ValueError, TypeError, EOFError) as error:
        raise InvalidData(f"{file}: is not a .npy array of numbers: {error}.") from error


def _read_json(file: Path) -> tuple[NDArray[np.float64], list[str] | None]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InvalidData(f"{file}: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    matrix, labels = (content.get("p"), content.get("labels")) if isinstance(content, dict) else (content, None)
    if matrix is None:
        raise InvalidData(f'{file}: holds an object without the key "p"; the matrix goes there.')
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise InvalidData(f'{file}: "labels" must be a list of strings.')
    try:
        return np.array(matrix, dtype=np.float64), labels
    except (TypeError, ValueError) as error:
        raise InvalidData(f"{file}: the matrix must be nested lists of numbers, all rows equally long.") from error


def _read_csv(file: Path) -> tuple[NDArray[np.float64], list[str] | None]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = [(i, [cell.strip() for cell in row]) for i, row in enumerate(csv.reader(stream), start=1) if any(row)]
    if not lines:
        raise InvalidData(f"{file}: is empty.")
    header = None if any(_is_number(cell) for cell in lines[0][1]) else lines.pop(0)[1]
    n = len(lines)
    named = n > 0 and len(lines[0][1]) == n + 1  # a first column of labels
    labels = [row[0] for _, row in lines] if named else None
    if header is not None:
        columns = header[len(header) - n :] if named or len(header) == n else header
        if labels is not None and columns != labels:
            raise InvalidData(f"{file}: the columns are {columns} but the rows are {labels}; they must match.")
        labels = columns
    matrix = [_numbers(file, line, row[1:] if named else row, n, 1 + named) for line, row in lines]
    return np.array(matrix), labels


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(file: Path, line: int, row: list[str], n: int, first_column: int) -> list[float]:
    if len(row) != n:
        raise InvalidData(f"{file}: row {line} holds {len(row)} numbers, but there are {n} rows; it must be square.")
    for column, cell in enumerate(row, start=first_column):
        if not _is_number(cell):
            raise InvalidData(f"{file}: row {line}, column {column}: {cell!r} is not a number.")
    return [float(cell) for cell in row]
