"""Who beat whom: comparisons with columns winner and loser, battles with two sides and a winner."""

from __future__ import annotations

import re

import numpy as np

from slhf.errors import InvalidData
from tabular.files.contents import FORMS, Matrix, Options
from tabular.files.numbers import Notation
from tabular.files.tables import Row, Table

SIDES = (("model_a", "model_b"), ("left", "right"), ("a", "b"))
"""What the columns of a battle's two sides are called."""
COUNTS = ("count", "weight")
"""What the column of how often is called."""
TIES = frozenset({"tie", "tie_(bothbad)", "bothbad", "both_bad", "tie_(both_bad)", "draw"})

Result = tuple[str, str, float]
"""A winner, a loser, and how often."""


def kind_of(table: Table) -> str:
    """Whether the first row names the columns of "comparisons" or "battles"; else "matrix".

    Raises:
        InvalidData: it names some of them, but not all.
    """
    header = [_normal(cell) for cell in table.rows[0].cells]
    if {"winner", "loser"} <= set(header):
        return "comparisons"
    sides = next((pair for pair in SIDES if set(pair) <= set(header)), None)
    if sides is not None and "winner" in header:
        return "battles"
    if {"winner", "loser", "model_a", "model_b"} & set(header):
        seen = ", ".join(table.rows[0].cells)
        raise InvalidData(f"{table.file}: {table.rows[0].place} names the columns {seen}; what is read is {FORMS}.")
    return "matrix"


def read_comparisons(table: Table, options: Options) -> Matrix:
    """How often each beat each other, of rows that hold a winner, a loser and, perhaps, how often.

    Rows about the same pair add up. A count may be a fraction (half a win each for a tie); without that column
    each row is one comparison.

    Raises:
        InvalidData: names the file, row and column.
    """
    options.allow(table.file, "comparisons")
    columns = _columns(table, ("winner", "loser"), COUNTS)
    how_often = next((name for name in COUNTS if name in columns), None)
    if set(COUNTS) <= set(columns):
        raise InvalidData(f"{table.file}: has a column count and a column weight; leave one of them out.")
    notation = Notation()
    if how_often:
        notation = Notation.of((row.cell(columns[how_often]) for row in table.rows[1:]), table.delimiter)
    results = []
    for row in table.rows[1:]:
        winner, loser = (_name(table, row, columns[name], name) for name in ("winner", "loser"))
        if winner == loser:
            raise InvalidData(f"{table.file}: {row.place}, column 'loser': {loser!r} cannot lose against itself.")
        times = 1.0 if how_often is None else _count(table, row, columns[how_often], how_often, notation)
        results.append((winner, loser, times))
    return _wins(table, results, notation.notes)


def read_battles(table: Table, options: Options) -> Matrix:
    """How often each beat each other, of rows that hold two sides and which of them won, by name or by side.

    Raises:
        InvalidData: names the file, row and column; also where ties are and nobody said what they count.
    """
    options.allow(table.file, "battles", "ties")
    header = [_normal(cell) for cell in table.rows[0].cells]
    sides = next(pair for pair in SIDES if set(pair) <= set(header))
    columns = _columns(table, (*sides, "winner"))
    results: list[Result] = []
    ties = 0
    for row in table.rows[1:]:
        a, b = (_name(table, row, columns[side], side) for side in sides)
        if a == b:
            raise InvalidData(f"{table.file}: {row.place}, column {sides[1]!r}: {b!r} cannot meet itself.")
        verdict = _verdict(table, row, columns["winner"], sides, (a, b))
        if verdict is None:
            ties += 1
            results += [(a, b, 0.5), (b, a, 0.5)] if options.ties == "half" else [(a, b, 0.0)]
        else:
            results.append((a, b, 1.0) if verdict == 0 else (b, a, 1.0))
    if ties and options.ties is None:
        raise InvalidData(
            f"{table.file}: {ties} of {len(table.rows) - 1} battles are ties; say whether a tie is half a win for each "
            f'(ties="half") or is left out (ties="drop").'
        )
    if options.ties and not ties:
        said = ["no battle is a tie"]
    else:
        counted = {"half": "half a win for each side", "drop": "left out"}
        said = [f"{ties} ties of {len(table.rows) - 1} battles are {counted[options.ties]}"] if options.ties else []
    return _wins(table, results, said)


def _verdict(table: Table, row: Row, column: int, sides: tuple[str, str], names: tuple[str, str]) -> int | None:
    """0 or 1 for the side that won, None for a tie."""
    cell = row.cell(column)
    said = _normal(cell)
    by_name = [k for k in (0, 1) if cell == names[k]]
    by_side = [k for k in (0, 1) if said in {pair[k] for pair in SIDES}]
    found = set(by_name) | set(by_side)
    if len(found) == 1:
        return found.pop()
    if said in TIES and not found:
        return None
    problem = "names one side and is called like the other" if found else "is no winner"
    raise InvalidData(
        f"{table.file}: {row.place}, column 'winner': {cell!r} {problem}; write {sides[0]}, {sides[1]} or tie."
    )


def _normal(cell: str) -> str:
    """A header or verdict without regard to capitals, spaces, hyphens."""
    return re.sub(r"[\s_-]+", "_", cell.strip().lower())


def _columns(table: Table, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, int]:
    """Where the named columns are; what other columns there are is noted."""
    header = [_normal(cell) for cell in table.rows[0].cells]
    wanted = [name for name in (*needed, *optional) if name in header]
    for name in wanted:
        if header.count(name) > 1:
            raise InvalidData(f"{table.file}: {table.rows[0].place} names {header.count(name)} columns {name!r}.")
    unused = [
        cell or f"column {k + 1} (without a name)"
        for k, cell in enumerate(table.rows[0].cells)
        if header[k] not in wanted and any(row.cell(k) for row in table.rows)
    ]
    if unused:
        table.notes.append(f"columns not used: {', '.join(unused)}")
    for row in table.rows[1:]:
        if any(row.cells[len(header) :]):
            raise InvalidData(
                f"{table.file}: {row.place} holds {len(row.cells)} cells; {table.rows[0].place} names {len(header)}."
            )
    return {name: header.index(name) for name in wanted}


def _name(table: Table, row: Row, column: int, title: str) -> str:
    name = row.cell(column)
    if not name:
        raise InvalidData(f"{table.file}: {row.place}, column {title!r}: is empty; name an alternative.")
    return name


def _count(table: Table, row: Row, column: int, title: str, notation: Notation) -> float:
    cell = row.cell(column)
    number = notation.read(cell)
    if cell == notation.unclear != "":
        plain = re.sub(r"[.,]", "", cell)
        raise InvalidData(
            f"{table.file}: {row.place}, column {title!r}: {cell!r} may be {plain} or {cell.replace(',', '.')}; "
            f"write it without the mark."
        )
    if number is None or number < 0 or notation.percent or number == float("inf"):
        raise InvalidData(f"{table.file}: {row.place}, column {title!r}: {cell!r} is not a number of comparisons.")
    return number


def _wins(table: Table, results: list[Result], said: list[str]) -> Matrix:
    """The results as a matrix, names sorted."""
    if not results:
        raise InvalidData(f"{table.file}: names columns but holds no comparisons.")
    names = sorted({name for winner, loser, _ in results for name in (winner, loser)})
    place = {name: k for k, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for winner, loser, times in results:
        wins[place[winner], place[loser]] += times
    return Matrix("wins", wins, names, (*table.notes, *said))
