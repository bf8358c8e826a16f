"""Preferences in files, for the command line and :meth:`PreferenceMatrix.load`.

- ``.npy``: an array of shape ``(..., n, n)``.
- ``.json``: nested lists, or ``{"p": nested lists, "labels": [...]}``.
- ``.csv``: n rows of n numbers, separated by commas. A first row of labels is recognised by holding no
  number; a first column of labels by the rows being one longer than the matrix.
- ``.csv`` with a first row ``winner,loser`` or ``winner,loser,count``: comparisons, one row for each result.
- ``.soc``, ``.soi``, ``.toc``, ``.toi``: PrefLib's (strict or tied, complete or incomplete) orders.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidData
from tabular.arrays import real

COMPARISON_COLUMNS = ("winner", "loser", "count")
PREFLIB = (".soc", ".soi", ".toc", ".toi")

Row = tuple[int, list[str]]
"""A line number and what it holds."""


def read_matrix(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], list[str] | None]:
    """The matrix in a file and its labels, if the file gives any.

    Raises:
        InvalidData: names the file, and the row and column where there is one.
    """
    file = Path(path)
    readers = {".csv": _read_csv, ".npy": _read_npy, ".json": _read_json}
    if file.suffix.lower() not in readers:
        kinds = ", ".join([*readers, *PREFLIB])
        raise InvalidData(f"{file}: unknown kind of file {file.suffix!r}; use one of {kinds}.")
    with _reading(file):
        return readers[file.suffix.lower()](file)


def first_row(path: str | os.PathLike[str]) -> list[str]:
    """The cells of the first row of a CSV file; [] if it is empty."""
    with _reading(Path(path)):
        return next((cells for _, cells in _csv_rows(Path(path))), [])


def read_comparisons(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], list[str]]:
    """wins[i, j], how often i beat j, from a CSV of comparisons, and the names, sorted.

    Rows about the same pair add up. A count may be a fraction (half a win each for a tie); without that
    column each row is one comparison.

    Raises:
        InvalidData: names the file, row and column.
    """
    file = Path(path)
    with _reading(file):
        rows = _csv_rows(file)
    header = rows[0][1] if rows else []
    if header not in (list(COMPARISON_COLUMNS), list(COMPARISON_COLUMNS[:2])):
        raise InvalidData(f"{file}: the first row is {header}; it must be {','.join(COMPARISON_COLUMNS)}.")
    results = []
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise InvalidData(f"{file}: row {line} holds {len(cells)} cells; the first row names {len(header)}.")
        for column, cell in zip(COMPARISON_COLUMNS[:2], cells, strict=False):
            if not cell:
                raise InvalidData(f"{file}: row {line}, column {column!r}: is empty; name an alternative.")
        if cells[0] == cells[1]:
            raise InvalidData(f"{file}: row {line}, column 'loser': {cells[1]!r} cannot lose against itself.")
        count = cells[2] if len(cells) > 2 else "1"
        if not (_is_number(count) and 0 <= float(count) < float("inf")):
            raise InvalidData(f"{file}: row {line}, column 'count': {count!r} is not a number of comparisons.")
        results.append((cells[0], cells[1], float(count)))
    if not results:
        raise InvalidData(f"{file}: holds no comparisons.")
    names = sorted({name for winner, loser, _ in results for name in (winner, loser)})
    wins = np.zeros((len(names), len(names)))
    for winner, loser, number in results:
        wins[names.index(winner), names.index(loser)] += number
    return wins, names


def read_preflib(path: str | os.PathLike[str]) -> tuple[list[str], list[list[tuple[str, ...]]], list[int]]:
    """A PrefLib file (https://preflib.org/format, since 2022): the alternatives, the orders and their counts.

    Lines "# KEY: value" come first and must name every alternative; then "count: 1,3,{2,4}", one for each
    order, where braces hold ties. An order is a list of groups of names, best first.

    Raises:
        InvalidData: names the file, line and field; also when orders break what the suffix promises (s: no
            ties, c: complete), or the counts do not add up to "NUMBER VOTERS".
    """
    file = Path(path)
    if file.suffix.lower() not in PREFLIB:
        raise InvalidData(f"{file}: unknown kind of file {file.suffix!r}; use one of {', '.join(PREFLIB)}.")
    with _reading(file):
        lines = [(i, line.strip()) for i, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1)]
    header = {
        key.strip().upper(): (i, value.strip())
        for i, line in lines
        if line.startswith("#")
        for key, _, value in [line[1:].partition(":")]
    }
    n = _header_number(file, header, "NUMBER ALTERNATIVES")
    if n is None:
        raise InvalidData(f'{file}: has no line "# NUMBER ALTERNATIVES: ..."; only the format since 2022 is read.')
    names = []
    for k in range(1, n + 1):
        line, name = header.get(f"ALTERNATIVE NAME {k}", (0, ""))
        if not name or name in names:
            problem = f'repeats the name "{name}"' if name else "is missing or empty"
            raise InvalidData(f"{file}:{f' line {line}:' if line else ''} field ALTERNATIVE NAME {k} {problem}.")
        names.append(name)
    orders, counts = [], []
    for line, text in lines:
        if text and not text.startswith("#"):
            count, order = _preflib_order(file, line, text, names)
            counts.append(count)
            orders.append(order)
    for field, found in (("NUMBER VOTERS", sum(counts)), ("NUMBER UNIQUE ORDERS", len(orders))):
        if (_header_number(file, header, field) or found) != found:
            line, value = header[field]
            raise InvalidData(f"{file}: line {line}: field {field} is {value}, but the orders below make {found}.")
    if not orders:
        raise InvalidData(f"{file}: holds no orders.")
    return names, orders, counts


def _header_number(file: Path, header: dict[str, tuple[int, str]], field: str) -> int | None:
    line, value = header.get(field, (0, ""))
    if not line:
        return None
    if not value.isdecimal() or int(value) == 0:
        raise InvalidData(f"{file}: line {line}: field {field} is {value!r}, not a positive whole number.")
    return int(value)


def _preflib_order(file: Path, line: int, text: str, names: list[str]) -> tuple[int, list[tuple[str, ...]]]:
    """The count and the groups of one line such as "3: 1,{2,4},3"."""
    count, colon, order = text.partition(":")
    if not (colon and count.strip().isdecimal() and int(count) > 0):
        raise InvalidData(f'{file}: line {line}: field count: {text!r} does not begin with a positive "count:".')
    pieces = [piece.strip() for piece in re.findall(r"\{[^{}]*\}|[^,{}]+|[{}]", order) if piece.strip()]
    groups, seen = [], set[int]()
    for place, piece in enumerate(pieces, 1):
        where = f"{file}: line {line}: field order, place {place}"
        group = [number.strip() for number in piece.strip("{}").split(",") if number.strip()]
        for number in group or [piece]:
            if not (number.isdecimal() and 1 <= int(number) <= len(names)):
                raise InvalidData(f"{where}: {number!r} is not an alternative from 1 to {len(names)}.")
            if int(number) in seen:
                raise InvalidData(f"{where}: alternative {number} comes twice.")
            seen.add(int(number))
        if len(group) > 1 and file.suffix.lower().startswith(".s"):
            raise InvalidData(f"{where}: {piece} is a tie, but {file.suffix} holds strict orders; name it .t...")
        groups.append(tuple(names[int(number) - 1] for number in group))
    if len(seen) < len(names) and file.suffix.lower().endswith("c"):
        raise InvalidData(
            f"{file}: line {line}: field order: ranks {len(seen)} of {len(names)} alternatives, but "
            f"{file.suffix} holds complete orders; name it {file.suffix[:-1]}i."
        )
    return int(count), groups


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """A file that is not there or not text is an InvalidData that names it."""
    try:
        yield
    except OSError as error:
        raise InvalidData(f"{file}: cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidData(f"{file}: is not text in UTF-8: {error.reason}.") from error


def _csv_rows(file: Path) -> list[Row]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return [(i, [cell.strip() for cell in row]) for i, row in enumerate(csv.reader(stream), start=1) if any(row)]


def _read_npy(file: Path) -> tuple[NDArray[np.float64], None]:
    try:
        return np.asarray(real(np.load(file, allow_pickle=False)), dtype=np.float64), None
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
        return np.asarray(real(matrix), dtype=np.float64), labels
    except (TypeError, ValueError) as error:
        raise InvalidData(f"{file}: the matrix must be nested lists of numbers, all rows equally long.") from error


def _read_csv(file: Path) -> tuple[NDArray[np.float64], list[str] | None]:
    lines = _csv_rows(file)
    if not lines:
        raise InvalidData(f"{file}: is empty.")
    header = None if any(_is_number(cell) for cell in lines[0][1]) else lines.pop(0)[1]
    if not lines:
        raise InvalidData(f"{file}: holds labels but no rows.")
    n, first = len(lines), lines[0][1]
    # a first column of labels; numbers can be labels only below a header, else the matrix is not square
    named = len(first) == n + 1 and (header is not None or not _is_number(first[0]))
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
