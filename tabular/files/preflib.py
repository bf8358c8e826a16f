"""PrefLib's orders (https://preflib.org/format): read, in the format since 2022 and the one before, and written.

Since 2022 lines "# KEY: value" come first and name every alternative; then "3: 1,{2,4},5", one for each order,
where braces hold ties. Before, the number of alternatives, their names as "1,name" and "voters,sum,orders" came
first; then "3,1,{2,4},5".
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slhf.errors import InvalidData
from slhf.text import split_lines
from tabular.files.contents import Matrix, Options, Orders
from tabular.files.numbers import POINT

SUFFIXES = (".soc", ".soi", ".toc", ".toi")
"""Strict or tied, complete or incomplete orders."""
GRAPH = ".wmd"
"""Weighted edges between alternatives."""

Line = tuple[int, str]
"""A line number and what it holds, without spaces or tabs around it: names may hold any other white space."""


@dataclass(frozen=True)
class Header:
    """What comes before the data.

    Attributes:
        names: the alternatives.
        totals: for each of the fields that promise one, its line, its name and the number.
        data: the lines behind.
        since_2022: whether a count ends in a colon, not in a comma.
    """

    names: list[str]
    totals: dict[str, tuple[int, int]]
    data: list[Line]
    since_2022: bool


def read_orders(file: Path, text: str, suffix: str, notes: tuple[str, ...] = ()) -> Orders:
    """The orders in ``text``, which ``file`` of kind ``suffix`` holds.

    Raises:
        InvalidData: names the file, line and field; also when orders break what the suffix promises (s: no
            ties, c: complete), or the counts do not add up to what the header says.
    """
    header = _header(file, text)
    orders, counts = [], []
    for line, order in header.data:
        count, groups = _order(file, line, order, header, suffix)
        counts.append(count)
        orders.append(groups)
    held = sum(count > 0 for count in counts)
    for field, found in (("NUMBER VOTERS", {sum(counts)}), ("NUMBER UNIQUE ORDERS", {len(orders), held})):
        line, value = header.totals.get(field, (0, -1))
        if line and value not in found:
            makes = max(found)
            raise InvalidData(f"{file}: line {line}: field {field} is {value}, but the orders below make {makes}.")
    if not sum(counts):
        raise InvalidData(f"{file}: holds no orders." if not orders else f"{file}: no order has a voter.")
    if held < len(orders):
        notes += (f"{len(orders) - held} of {len(orders)} orders have the count 0: nobody holds them",)
    if not header.since_2022:
        notes += ("the format is PrefLib's from before 2022",)
    return Orders(header.names, orders, counts, notes)


def write_orders(
    path: str | os.PathLike[str],
    names: Sequence[str],
    orders: Sequence[Sequence[Sequence[str]]],
    counts: Sequence[int],
) -> None:
    """Write a PrefLib file in the format since 2022, which :func:`read_orders` reads back as it is.

    Args:
        path: its suffix says what the orders may be: .soc, .soi, .toc or .toi.
        names: the alternatives.
        orders: each lists groups of tied names, best first.
        counts: how many voters hold each.

    Raises:
        InvalidData: the orders are not what the suffix promises, or a name cannot be written.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    place = {name: str(k) for k, name in enumerate(names, 1)}
    lines = []
    for count, order in zip(counts, orders, strict=True):
        groups = [",".join(place[name] for name in group) for group in order]
        pieces = ["{" + group + "}" if "," in group else group for group in groups]
        lines.append(f"{count}: {','.join(pieces)}")
    head = {"FILE NAME": file.name, "TITLE": "", "DESCRIPTION": "", "DATA TYPE": suffix[1:]}
    head |= {"MODIFICATION TYPE": "synthetic", "RELATES TO": "", "RELATED FILES": ""}
    head |= {"PUBLICATION DATE": "", "MODIFICATION DATE": "", "NUMBER ALTERNATIVES": str(len(names))}
    head |= {"NUMBER VOTERS": str(sum(counts)), "NUMBER UNIQUE ORDERS": str(len(orders))}
    head |= {f"ALTERNATIVE NAME {k}": name for k, name in enumerate(names, 1)}
    text = "".join(f"# {key}: {value}\n" for key, value in head.items()) + "".join(f"{line}\n" for line in lines)
    back = read_orders(file, text, suffix)
    if (back.names, back.orders) != (list(names), [[tuple(group) for group in order] for order in orders]):
        raise InvalidData(f"{file}: a name begins or ends with a space or holds a line end; PrefLib cannot say that.")
    file.write_bytes(text.encode())


def read_graph(file: Path, text: str, options: Options) -> Matrix:
    """The edges "i,j,weight" of a .wmd file, as how often i beat j: only where the user says so, with ``counts``.

    Raises:
        InvalidData: names the file, line and field.
    """
    if not options.counts:
        raise InvalidData(
            f"{file}: holds weighted edges between alternatives, which need not be preferences; if an edge i,j,weight "
            f"says how often i beat j, pass counts=True."
        )
    options.allow(file, "weighted edges", "counts")
    header = _header(file, text)
    n = len(header.names)
    wins = np.zeros((n, n))
    for line, edge in header.data:
        cells = [cell.strip() for cell in edge.split(",")]
        i, j = (int(cell) if cell.isdecimal() else 0 for cell in (*cells, "", "")[:2])
        if len(cells) != 3 or not (1 <= i <= n and 1 <= j <= n) or not POINT.fullmatch(cells[2]):
            raise InvalidData(f"{file}: line {line}: {edge!r} is no edge between alternatives from 1 to {n}.")
        wins[i - 1, j - 1] += float(cells[2])
    return Matrix("wins", wins, header.names, ("the weight of an edge i,j is how often i beat j",))


def _header(file: Path, text: str) -> Header:
    lines = [(k, line.strip(" \t")) for k, line in enumerate(split_lines(text), 1)]
    filled = [(k, line) for k, line in lines if line]
    if filled and not filled[0][1].startswith("#") and filled[0][1].isdecimal():
        return _header_before_2022(file, filled)
    fields = {
        key.strip().upper(): (k, value.strip(" \t"))
        for k, line in filled
        if line.startswith("#")
        for key, _, value in [line[1:].partition(":")]
    }
    n = _number(file, fields, "NUMBER ALTERNATIVES")
    if n is None:
        raise InvalidData(f'{file}: has no line "# NUMBER ALTERNATIVES: ...", so it is no PrefLib file.')
    names: list[str] = []
    for k in range(1, n + 1):
        line, name = fields.get(f"ALTERNATIVE NAME {k}", (0, ""))
        names.append(_checked_name(file, line, k, name, names))
    totals = {}
    for field in ("NUMBER VOTERS", "NUMBER UNIQUE ORDERS"):
        value = _number(file, fields, field)
        if value is not None:
            totals[field] = (fields[field][0], value)
    return Header(names, totals, [(k, line) for k, line in filled if not line.startswith("#")], True)


def _header_before_2022(file: Path, lines: list[Line]) -> Header:
    n = int(lines[0][1])
    names: list[str] = []
    for k, (line, text) in enumerate(lines[1 : n + 1], 1):
        number, _, name = text.partition(",")
        if number.strip() != str(k):
            raise InvalidData(f"{file}: line {line}: {text!r} is not the name of alternative {k}, as in '{k},name'.")
        names.append(_checked_name(file, line, k, name.strip(" \t"), names))
    totals = [number.strip() for number in lines[n + 1][1].split(",")] if len(lines) > n + 1 else []
    if len(names) < n or n == 0 or len(totals) != 3 or not all(number.isdecimal() for number in totals):
        raise InvalidData(
            f"{file}: begins like PrefLib's format from before 2022, but behind {n} names there is no line "
            f"'voters,sum of counts,orders'."
        )
    line = lines[n + 1][0]
    return Header(
        names, {"NUMBER VOTERS": (line, int(totals[1])), "NUMBER UNIQUE ORDERS": (line, int(totals[2]))},
        lines[n + 2 :], False,
    )  # fmt: skip


def _checked_name(file: Path, line: int, k: int, name: str, others: list[str]) -> str:
    if not name or name in others:
        problem = f'repeats the name "{name}"' if name else "is missing or empty"
        raise InvalidData(f"{file}:{f' line {line}:' if line else ''} field ALTERNATIVE NAME {k} {problem}.")
    return name


def _number(file: Path, fields: dict[str, tuple[int, str]], field: str) -> int | None:
    line, value = fields.get(field, (0, ""))
    if not line:
        return None
    if not value.isdecimal() or int(value) == 0:
        raise InvalidData(f"{file}: line {line}: field {field} is {value!r}, not a positive whole number.")
    return int(value)


def _order(file: Path, line: int, text: str, header: Header, suffix: str) -> tuple[int, list[tuple[str, ...]]]:
    """The count and the groups of one line such as "3: 1,{2,4},3"."""
    mark = ":" if header.since_2022 else ","
    count, found, order = text.partition(mark)
    if not (found and count.strip().isdecimal()):
        raise InvalidData(
            f'{file}: line {line}: field count: {text!r} does not begin with a whole number and "{mark}".'
        )
    pieces = [piece.strip() for piece in re.findall(r"\{[^{}]*\}|[^,{}]+|[{}]", order) if piece.strip()]
    names = header.names
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
        if len(group) > 1 and suffix.startswith(".s"):
            raise InvalidData(f"{where}: {piece} is a tie, but {suffix} holds strict orders; name it .t...")
        groups.append(tuple(names[int(number) - 1] for number in group))
    if len(seen) < len(names) and suffix.endswith("c"):
        raise InvalidData(
            f"{file}: line {line}: field order: ranks {len(seen)} of {len(names)} alternatives, but "
            f"{suffix} holds complete orders; name it {suffix[:-1]}i."
        )
    return int(count), groups
