"""Rows of cells: how a file separates them, recognised before anything is said about what they hold."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from slhf.errors import InvalidData
from slhf.text import split_lines
from tabular.files.numbers import is_blank, is_number

DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "spaces"}
"""What separates cells, the most telling first."""
UNSEPARATED = "\x00"
"""A delimiter that no text holds: one cell a line."""


@dataclass(frozen=True)
class Row:
    """The cells of one row and where it is, such as "line 3"."""

    place: str
    cells: list[str]

    def cell(self, column: int) -> str:
        """A cell; blank beyond the last one."""
        return self.cells[column] if column < len(self.cells) else ""


@dataclass
class Table:
    """The rows of a file.

    Attributes:
        file: its name, for errors.
        rows: all that are not blank.
        delimiter: a key of :data:`DELIMITERS`; of JSON, a comma.
        notes: what was assumed so far.
        blank_end: whether the last row holds separators and nothing else.
    """

    file: Path
    rows: list[Row]
    delimiter: str = ","
    notes: list[str] = field(default_factory=list)
    blank_end: bool = False


def read_table(file: Path, text: str) -> Table:
    """The table in ``text``, which ``file`` holds.

    Raises:
        InvalidData: it is empty, or its quotation marks do not match.
    """
    lines = split_lines(text)
    delimiter, rows = _separated(file, lines)
    expected = (",", UNSEPARATED, "\t" if ".tsv" in file.suffixes else ",")
    notes = [] if delimiter in expected else [f"cells are separated by {DELIMITERS[delimiter]}"]
    notes += [f"{row.place} is a comment and was left out" for row in rows if _is_comment(row)]
    rows = [row for row in rows if not _is_comment(row)]
    filled = [row for row in rows if any(row.cells)]
    if not filled:
        raise InvalidData(f"{file}: is empty.")
    return Table(file, filled, delimiter, notes, not any(rows[-1].cells))


def _separated(file: Path, lines: list[str]) -> tuple[str, list[Row]]:
    """The delimiter and the rows: of those that the first row holds, one that makes a table of numbers, or a table."""
    top = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    trials: dict[str, list[Row]] = {}
    failed: InvalidData | None = None
    for delimiter in [known for known in DELIMITERS if known in top] or [UNSEPARATED]:
        try:
            trials[delimiter] = _rows(file, lines, delimiter)
        except InvalidData as error:
            failed = failed or error
    if not trials and failed:
        raise failed
    for fits in (_is_numeric, _is_even):
        for delimiter, rows in trials.items():
            if fits(rows):
                return delimiter, rows
    return next(iter(trials.items()))


def _rows(file: Path, lines: list[str], delimiter: str) -> list[Row]:
    """Each with its cells, stripped; quoted ones may hold anything, line ends included."""
    most = csv.field_size_limit(2**31 - 1)  # conversations are long
    texts = (line.strip() + "\n" if delimiter == " " else line + "\n" for line in lines)
    reader = csv.reader(texts, delimiter=delimiter, strict=True, skipinitialspace=True)
    rows, start = [], 1
    try:
        for cells in reader:
            if "".join(cells).strip() or len(cells) > 1:
                rows.append(Row(f"line {start}", [cell.strip() for cell in cells]))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InvalidData(f"{file}: line {start}: {error}; check its quotation marks.") from error
    finally:
        csv.field_size_limit(most)
    return rows


def _is_even(rows: list[Row]) -> bool:
    """Whether rows are equally long, perhaps without blank ends; the first may be one shorter."""
    for widths in ([len(row.cells) for row in rows], [len(_trimmed(row.cells)) for row in rows]):
        body = set(widths[1:] or widths)
        if len(body) == 1 and max(body) > 1 and widths[0] in (max(body), max(body) - 1):
            return True
    return False


def _is_numeric(rows: list[Row]) -> bool:
    """Whether they are, and hold numbers below and beside names."""
    body = [cell for row in rows[1:] for cell in row.cells[1:]]
    return _is_even(rows) and all(is_number(cell) or is_blank(cell) for cell in body)


def _trimmed(cells: list[str]) -> list[str]:
    end = len(cells)
    while end and not cells[end - 1]:
        end -= 1
    return cells[:end]


def _is_comment(row: Row) -> bool:
    """A row that begins with # and holds no number, unless all its cells begin so: those are names."""
    others = [cell for cell in row.cells[1:] if cell]
    if not row.cells[0].startswith("#") or any(is_number(cell) for cell in others):
        return False
    return not others or not all(cell.startswith("#") for cell in others)
