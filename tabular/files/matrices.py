"""Square tables: which cells are names and which are numbers, and what the numbers are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidData
from tabular.files.contents import FORMS, Matrix, Options
from tabular.files.numbers import Notation, is_blank, is_number
from tabular.files.tables import Row, Table

Array = NDArray[np.float64]

ROUNDED = 0.0201
"""How far a sum p(i > j) + p(j > i) of numbers rounded to two decimals may be from 1, and a little more."""


@dataclass(frozen=True)
class Square:
    """The numbers of a square table; NaN where a cell is blank.

    Attributes:
        values: ``(n, n)``.
        labels: their names, if the table has any.
        notes: what was assumed so far.
        percent: whether they were written with percent signs, and divided by 100.
    """

    values: Array
    labels: list[str] | None
    notes: tuple[str, ...]
    percent: bool = False


def read_square(table: Table) -> Square:
    """The numbers of a table, whether or not it names its columns, its rows, or both.

    Raises:
        InvalidData: it is not square, names different alternatives in columns and rows, or holds what is no number.
    """
    _drop_blank_ends(table)
    top, below = table.rows[0], table.rows[1:]
    header = top if _names_columns(top, below) else None
    body = below if header else table.rows
    if not body:
        raise InvalidData(f"{table.file}: holds names but no rows below them.")
    if table.blank_end and _width(body) == len(body) + 1 and not (header and len(header.cells) > len(body) + 1):
        body = [*body, Row("the last line", [])]  # the last row of an upper triangle
    _require_even(table, body)
    columns, names = _names(table, header, body)
    named = names is not None
    if header and not named and all(cell.isdecimal() for cell in header.cells):
        table.notes.append(f"{header.place} holds the names {', '.join(header.cells)}")
    labels, index = _matched(table, header, columns, body, names)
    cells = [[row.cell(k + named) for k in range(_width(body) - named)] for row in body]
    _require_square(table, body, cells, labels)
    notation = Notation.of((cell for row in cells for cell in row), table.delimiter)
    values = np.array([_read(table, body[i], row, notation, 1 + named) for i, row in enumerate(cells)])
    if index is not None:
        values = values[index]
    return Square(values, labels, (*table.notes, *notation.notes), notation.percent)


def _names_columns(top: Row, below: list[Row]) -> bool:
    """Whether the first row holds the names of the columns: by its cells or, if names look like numbers, by its shape.

    Names of both columns and rows are the same; whole numbers above a square are names.
    """
    filled = [cell for cell in top.cells if cell]
    if not below or not any(is_number(cell) for cell in filled):
        return bool(filled) and not any(is_number(cell) or is_blank(cell) for cell in filled)
    width = _width(below)
    both = [row.cell(0) for row in below] == top.cells[1:] and len(set(top.cells[1:])) > 1
    if both and not is_number(top.cells[0]):
        return True
    words = any(not is_number(cell) and not is_blank(cell) for cell in top.cells[1:])
    whole = len(set(filled)) == len(filled) and all(cell.isdecimal() for cell in filled)
    return (words or whole) and (len(below) == width == len(filled) or len(top.cells) == width - 1 == len(below))


def _names(table: Table, header: Row | None, body: list[Row]) -> tuple[list[str] | None, list[str] | None]:
    """The names in the header and those in the first column, if there are any."""
    width, n = _width(body), len(body)
    first = [row.cell(0) for row in body]
    if header is None:
        words = any(not is_number(cell) and not is_blank(cell) for cell in first)
        return None, first if width == n + 1 and (words or all(cell.isdecimal() for cell in first)) else None
    if len(header.cells) == width - 1:
        return header.cells, first
    words = any(not is_number(cell) and not is_blank(cell) for cell in first)
    if width == n or (len(header.cells) == width and width != n + 1 and not words):
        return header.cells, None
    corner, *columns = header.cells
    if corner and not words and first != columns and not _is_index(first):
        return header.cells, None  # a row is missing
    return columns, first


def _matched(
    table: Table, header: Row | None, columns: list[str] | None, body: list[Row], names: list[str] | None
) -> tuple[list[str] | None, list[int] | None]:
    """The labels, and the places of the rows in their order if it is another one.

    Raises:
        InvalidData: rows and columns are about different alternatives.
    """
    if columns is None or names is None or columns == names:
        return columns or names, None
    place = header.place if header else ""
    if sorted(columns) == sorted(names) and len(set(names)) == len(names):
        table.notes.append(f"the rows are in another order than the columns of {place}, and were put in that")
        return columns, [names.index(name) for name in columns]
    if len(columns) == len(names) and _is_index(names) and not all(is_number(name) for name in columns):
        table.notes.append(f"the first column, {names[0]} to {names[-1]}, is an index and was left out")
        return columns, None
    only_columns = [name for name in columns if name not in names]
    only_rows = [name for name in names if name not in columns]
    said = [f"{place} names {', '.join(map(repr, only_columns))}, which no row is about"] if only_columns else []
    said += [f"the row {name!r} is not among the columns of {place}" for name in only_rows[:1]]
    said = said or [f"the names {names} of the rows repeat one"]
    raise InvalidData(f"{table.file}: {'; '.join(said)}; rows and columns must be about the same alternatives.")


def _is_index(names: list[str]) -> bool:
    """Whether they are 0, 1, 2, ... or 1, 2, 3, ..., as programs number rows."""
    return any(names == [str(k + first) for k in range(len(names))] for first in (0, 1))


def _require_even(table: Table, body: list[Row]) -> None:
    """Refuse rows of different lengths, and a table without any number."""
    width = _width(body)
    uneven = next((row for row in body if row.cells and len(row.cells) != width), None)
    if uneven:
        other = next(row for row in body if len(row.cells) == width)
        raise InvalidData(
            f"{table.file}: {uneven.place} has {len(uneven.cells)} of the {width} cells that {other.place} has; rows "
            f"of a matrix are equally long (leave a cell blank to say nothing)."
        )
    cells = [cell for row in body for cell in row.cells[min(1, width - 1) :] if not is_blank(cell)]
    words = sum(not is_number(cell) for cell in cells)
    if words == len(cells) > 0 or words > max(1, len(cells) // 3):
        seen = ", ".join(table.rows[0].cells)
        raise InvalidData(f"{table.file}: is no table of numbers; its first row is {seen!r}. What is read is {FORMS}.")


def _require_square(table: Table, body: list[Row], cells: list[list[str]], labels: list[str] | None) -> None:
    n, width = len(body), len(cells[0])
    if labels is not None and len(labels) != width:
        raise InvalidData(f"{table.file}: there are {len(labels)} names ({', '.join(labels)}) for {width} columns.")
    if n != width:
        about = f" ({', '.join(labels)})" if labels else ""
        few = {width - 1: "a row is missing", width + 1: "a column is missing"}.get(n, f"what is read is {FORMS}")
        raise InvalidData(
            f"{table.file}: has {width} columns{about} but {n} rows of numbers, from {body[0].place} on; {few}."
        )


def _read(table: Table, row: Row, cells: list[str], notation: Notation, first_column: int) -> list[float]:
    numbers = []
    for column, cell in enumerate(cells, start=first_column):
        number = float("nan") if is_blank(cell) else notation.read(cell)
        if number is None or (cell and cell == notation.unclear):
            problem = "is not a number"
            if cell == notation.unclear:
                problem = f"may be {cell.replace(',', '').replace('.', '')} or {cell.replace(',', '.')}; write one"
            elif notation.percent and is_number(cell):
                problem = "has no %, but other numbers have; write it everywhere or nowhere"
            raise InvalidData(f"{table.file}: {row.place}, column {column}: {cell!r} {problem}.")
        numbers.append(number)
    return numbers


def _width(rows: list[Row]) -> int:
    return max(len(row.cells) for row in rows)


def _drop_blank_ends(table: Table) -> None:
    """Columns at the end that hold nothing: trailing separators."""
    used = max(k + 1 for row in table.rows for k, cell in enumerate(row.cells) if cell)
    longest = _width(table.rows)
    if table.blank_end and longest == len(table.rows) + 1:
        return
    table.rows = [Row(row.place, row.cells[:used]) for row in table.rows]
    if used < longest:
        table.notes.append("blank columns at the end were left out")


def probabilities(square: Square, file: object, options: Options) -> Matrix:
    """The preferences that a square table holds, with a blank diagonal and one blank triangle filled in.

    Raises:
        InvalidData: other cells are blank.
    """
    values, notes = square.values.copy(), list(square.notes)
    n = len(values)
    values, more = (values, []) if square.percent else scaled(values, options)
    blank = np.isnan(values)
    if blank.diagonal().any():
        np.fill_diagonal(values, np.where(blank.diagonal(), 0.5, values.diagonal()))
        more.append("the blank diagonal is 1/2")
    upper = np.triu(np.ones((n, n), dtype=bool), 1)
    for name, given in (("above", upper), ("below", upper.T)):
        if n > 1 and blank[given.T].all() and not blank[given].any():
            values = np.where(given.T, 1 - values.T, values)
            more.append(f"the numbers {name} the diagonal say the others: p(j > i) = 1 - p(i > j)")
    refuse_blank(values, square.labels, file, "write both p(i > j) and p(j > i), or one triangle of the table only")
    values, rounded = balanced(values, options)
    return Matrix("probabilities", values, square.labels, (*notes, *more, *rounded))


def wins(square: Square, file: object) -> Matrix:
    """How often each row beat each column, of a square table; a blank cell is no win if its opposite is filled in.

    Raises:
        InvalidData: a whole triangle is blank, which would say that nobody ever lost.
    """
    values, notes = square.values.copy(), list(square.notes)
    if square.percent:
        raise InvalidData(f"{file}: numbers with % are no counts of wins; drop counts=True.")
    np.fill_diagonal(values, np.where(np.isnan(values.diagonal()), 0, values.diagonal()))
    blank = np.isnan(values)
    n = len(values)
    if n > 1 and any(blank[triangle].all() for triangle in (np.triu_indices(n, 1), np.tril_indices(n, -1))):
        refuse_blank(values, square.labels, file, "counts need both triangles: how often i beat j, and j beat i")
    if blank.any():
        notes.append(f"{blank.sum()} blank cells are 0 wins")
    return Matrix("wins", np.where(blank, 0, values), square.labels, tuple(notes))


def refuse_two_readings(table: Table) -> None:
    """Refuse counts whose first row (and column) holds numbers that may be names or counts.

    Raises:
        InvalidData: they do.
    """
    top = table.rows[0]
    if (
        len(table.rows) == len(top.cells) + 1
        and all(cell.isdecimal() for cell in top.cells)
        and not _is_index(top.cells)
    ):
        raise InvalidData(
            f"{table.file}: has {len(table.rows)} rows of {len(top.cells)} numbers; if {top.place} holds names, name "
            f"the rows too."
        )
    first = [row.cell(0) for row in table.rows]
    diagonal = [row.cell(k) for k, row in enumerate(table.rows)]
    if first == table.rows[0].cells and not any(diagonal) and all(is_number(cell) for cell in first[1:]):
        raise InvalidData(
            f"{table.file}: {table.rows[0].place} and the first column hold the same numbers, which may be names or "
            f"counts; write 0 on the diagonal, or names that are no numbers."
        )


def scaled(values: Array, options: Options) -> tuple[Array, list[str]]:
    """Percentages as probabilities, where the user says that they are, and what to say about it."""
    return (values / 100, ["numbers are percentages, divided by 100"]) if options.percent else (values, [])


def balanced(values: Array, options: Options, precision: float = 0.0) -> tuple[Array, list[str]]:
    """Probabilities ``(..., n, n)`` whose rounding is undone: p(i > j) takes (1 + p(i > j) - p(j > i)) / 2.

    This is done where all sums p(i > j) + p(j > i) miss 1 by no more than ``precision``, the rounding of the numbers
    that the file stores, or by no more than ``ROUNDED`` and the user asks for it.
    """
    transposed = np.swapaxes(values, -1, -2)
    with np.errstate(invalid="ignore"):
        missed = float(np.max(np.abs(values + transposed - 1), initial=0))
    if not (0 < missed <= precision or (options.symmetrise and missed <= ROUNDED)):
        return values, []
    if missed <= 1e-15 and not options.symmetrise:
        return values, []
    said = f"p(i > j) + p(j > i) missed 1 by up to {missed:.1g}, and both took half of that"
    return (1 + values - transposed) / 2, [said]


def refuse_blank(values: Array, labels: list[str] | None, file: object, advice: str) -> None:
    """Refuse a square matrix with a NaN; names the first entry.

    Raises:
        InvalidData: there is one.
    """
    blank = np.argwhere(np.isnan(values))
    if len(blank):
        names = labels or [str(k) for k in range(len(values))]
        i, j = blank[0]
        raise InvalidData(f"{file}: entry ({names[i]}, {names[j]}) is blank; {advice}.")
