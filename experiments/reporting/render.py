"""A report as blocks of plain text, tables and figures, and the two ways it is written: Markdown and one HTML page.

All text in blocks is plain. Answers of language models and names from sweep files are untrusted: whatever they hold,
neither writer lets it become markup.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from matplotlib.figure import Figure
from tabulate import tabulate

from slhf import figures

MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")
"""What Markdown, its tables and GitHub's formulas give a meaning to anywhere in a line."""
NUMBER = re.compile(r"[-−+]?\.?\d[\d.,]*( .*)?|–|")
"""What is set flush right; a column is if all its cells are."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of texts below a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns are numbers."""
        return [
            all(NUMBER.fullmatch(row[j]) for row in self.rows) and any(row[j] for row in self.rows)
            for j in range(len(self.header))
        ]


@dataclass(frozen=True)
class Picture:
    """A figure, kept as ``figures/NAME.png``."""

    name: str
    figure: Figure
    caption: str


Block = Text | Bullets | Table | Picture


@dataclass(frozen=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: Sequence[Block]


def plain(text: str) -> str:
    """Without what no file or page can hold: control characters, halves of surrogate pairs."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", lines)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The report as Markdown whose figures are files beside it."""
    parts = [f"# {escape(title)}"]
    for section in sections:
        parts += [f"## {escape(section.title)}", *(markdown_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """``text`` on one line that Markdown shows as it is; not for the beginning of a line."""
    return MARKUP.sub(r"\\\1", " ".join(plain(text).split()))


def markdown_block(block: Block) -> str:
    """One block."""
    match block:
        case Text(text):
            return paragraph(text)
        case Bullets(items):
            return "\n".join(f"- {paragraph(item)}" for item in items)
        case Picture(name, _, caption):
            return f"![{escape(caption)}](figures/{name}.png)"
        case Table():
            above = [f"*{escape(block.caption)}*"] if block.caption else []
            return "\n\n".join([*above, table_text(block, escape)])


def paragraph(text: str) -> str:
    """``text`` escaped for the beginning of a line, where a number or a sign would begin a list."""
    return re.sub(r"^(\d{1,9})([.)])|^([-+=])", lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", escape(text))


def table_text(table: Table, show: Callable[[str], str] = str) -> str:
    """A table as lines that a person can read, each text as ``show`` gives it."""
    rows = [[show(cell) for cell in row] for row in table.rows]
    align = ["right" if numeric else "left" for numeric in table.numeric]
    return tabulate(rows, [show(name) for name in table.header], "pipe", disable_numparse=True, colalign=align)


def html(title: str, sections: Sequence[Section]) -> str:
    """The report as one page that needs nothing but itself."""
    return page().render(title=title, sections=sections)


@cache
def page() -> jinja2.Template:
    """The page's template; whatever it is given is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "inlined": inlined, "kind": lambda block: type(block).__name__}
    return environment.get_template("page.html.jinja")


def inlined(figure: Figure) -> str:
    """A figure as a data URI."""
    return "data:image/png;base64," + base64.b64encode(figures.png(figure)).decode("ascii")


def save_figures(folder: Path, sections: Sequence[Section]) -> None:
    """The figures as files, for Markdown and for papers."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                figures.save(block.figure, folder / f"{block.name}.png")
