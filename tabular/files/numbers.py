"""Numbers as tables write them: decimal points or commas, separators of thousands, percent signs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

BLANKS = frozenset({"", "-", "–", "—", ".", "nan", "na", "n/a", "none", "null"})
"""What stands for no number, in small letters."""

POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)?,\d*([eE][+-]?\d+)?")
"""A decimal comma, perhaps behind points between thousands."""
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
"""Commas between thousands."""
SPACED = re.compile(r"[+-]?\d{1,3}([ \u00a0\u202f'’]\d{3})+([.,]\d*)?")
"""Spaces or apostrophes between thousands."""
EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
"""A decimal mark, or a mark of thousands."""


def is_blank(cell: str) -> bool:
    """Whether a cell says that it holds no number."""
    return cell.lower() in BLANKS


@dataclass(frozen=True)
class Notation:
    """How a table writes its numbers.

    Attributes:
        comma: what a comma in a number is.
        percent: whether numbers end in a percent sign.
        spaced: whether some hold spaces or apostrophes between thousands.
        unclear: a cell that could be two numbers, which nothing else in the table decides.
    """

    comma: str = "none"
    percent: bool = False
    spaced: bool = False
    unclear: str = ""

    @classmethod
    def of(cls, cells: Iterable[str], delimiter: str) -> Notation:
        """The notation that explains all of ``cells`` that are numbers, in a table that ``delimiter`` separates."""
        written = list(cells)
        texts = [_bare(cell) for cell in written]
        percent = any(cell.endswith("%") and is_number(cell) for cell in texts)
        numbers = [cell.rstrip("% ") for cell in texts]
        either = [cell for cell in numbers if EITHER.fullmatch(cell)]
        decimal = [cell for cell in numbers if COMMA.fullmatch(cell) and not EITHER.fullmatch(cell)]
        grouped = [cell for cell in numbers if THOUSANDS.fullmatch(cell) and not EITHER.fullmatch(cell)]
        commas = [cell for cell in either if "," in cell]
        spaced = any(SPACED.fullmatch(cell) for cell in written)
        if decimal:
            return cls("decimal", percent, spaced)
        if grouped or (commas and delimiter == ","):
            return cls("thousands", percent, spaced)
        unclear = commas or (either if delimiter == ";" and len(either) == sum("." in cell for cell in numbers) else [])
        return cls("none", percent, spaced, unclear[0] if unclear else "")

    def read(self, cell: str) -> float | None:
        """The number in a cell; None if it is none in this notation."""
        text = _bare(cell)
        if self.percent:
            if not text.endswith("%"):
                return None
            text = text[:-1].rstrip()
        if self.comma == "decimal" and "," in text:
            if not COMMA.fullmatch(text):
                return None
            text = text.replace(".", "").replace(",", ".")
        elif self.comma == "decimal" and re.fullmatch(r"[+-]?[1-9]\d{0,2}(\.\d{3})+", text):
            text = text.replace(".", "")
        elif self.comma == "thousands" and THOUSANDS.fullmatch(text):
            text = text.replace(",", "")
        if not POINT.fullmatch(text):
            return None
        return float(text) / 100 if self.percent else float(text)

    @property
    def notes(self) -> list[str]:
        """What was assumed."""
        said = {"decimal": "commas in numbers are decimal commas", "thousands": "commas in numbers part thousands"}
        percent = ["numbers with % are percentages, divided by 100"] if self.percent else []
        spaced = ["spaces or apostrophes in numbers part thousands"] if self.spaced else []
        return ([said[self.comma]] if self.comma in said else []) + spaced + percent


def is_number(cell: str) -> bool:
    """Whether a cell is a number in some notation."""
    text = _bare(cell).removesuffix("%").rstrip()
    return any(pattern.fullmatch(text) for pattern in (POINT, COMMA, THOUSANDS)) and text not in (",", "+,", "-,")


def _bare(cell: str) -> str:
    """Without the spaces or apostrophes between thousands, and with the keyboard's minus."""
    text = cell.strip().replace("\u2212", "-")
    return re.sub(r"[ \u00a0\u202f'’]", "", text) if SPACED.fullmatch(text) else text
