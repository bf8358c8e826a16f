"""Preferences in files, for the command line and ``tabular.PreferenceMatrix.load``.

By its name, without ``.gz`` (see :mod:`slhf.text` for encodings and compression), a file is

- ``.npy``: an array of shape ``(..., n, n)``;
- ``.json``: nested lists, ``{"p": nested lists, "labels": [...]}`` (or ``"wins"`` for counts), or a list of objects,
  each a row of a table; ``.jsonl``: one object a line;
- ``.csv``, ``.tsv``, ``.txt``: a table. Commas, semicolons, tabs or spaces separate its cells, and what it holds is
  recognised by its first row: comparisons (winner, loser and perhaps count or weight), battles (two sides and a
  winner; see :mod:`tabular.files.comparisons`), or else a square matrix, with or without names of its columns and
  rows (:mod:`tabular.files.matrices`);
- ``.soc``, ``.soi``, ``.toc``, ``.toi``: PrefLib's orders; ``.wmd``: its weighted edges (:mod:`tabular.files.preflib`).

Nothing is guessed in silence: what was assumed is in the ``notes`` of what is returned.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidData
from slhf.text import decode, read_bytes
from tabular.files import arrays, comparisons, matrices, preflib
from tabular.files.contents import Matrix, Options, Orders, Ties
from tabular.files.matrices import ROUNDED
from tabular.files.preflib import write_orders
from tabular.files.tables import Table, read_table

__all__ = ["ROUNDED", "Matrix", "Options", "Orders", "Ties", "read", "read_orders", "read_weights", "write_orders"]

TABLES = (".csv", ".tsv", ".txt")
ROWS = (*TABLES, ".json", ".jsonl")
"""Files of text that can hold a table."""
SUFFIXES = (*ROWS, ".npy", *preflib.SUFFIXES, preflib.GRAPH)
"""The kinds of files that are read."""
FALLBACK = "cp1252"
"""The encoding of spreadsheets that do not write UTF-8."""


def read(path: str | os.PathLike[str], options: Options) -> Matrix | Orders:
    """What a file holds.

    Raises:
        InvalidData: names the file, and the place where there is one.
        InvalidParameter: an option has no meaning for this file.
    """
    file = Path(path)
    suffix = suffix_of(file)
    if suffix in preflib.SUFFIXES:
        options.allow(file, "orders", "unranked")
        return read_orders(file)
    if suffix == preflib.GRAPH:
        text, notes = _text(file)
        graph = preflib.read_graph(file, text, options)
        return replace(graph, notes=(*notes, *graph.notes))
    if suffix == ".npy":
        return arrays.matrix_of(file, arrays.read_npy(file, read_bytes(file)), None, options, "probabilities")
    found = _rows(file, suffix)
    if isinstance(found, Table):
        return _of_table(found, options)
    if arrays.has_blanks(found.content):
        options = replace(options, counts=options.counts or found.kind == "wins")
        return _of_matrix(arrays.cells_table(file, found.content, found.labels), options)
    return arrays.matrix_of(file, arrays.numbers_of(file, found.content), found.labels, options, found.kind)


def read_orders(path: str | os.PathLike[str]) -> Orders:
    """The orders in a PrefLib file.

    Raises:
        InvalidData: names the file, line and field; also that it is none, by its name.
    """
    file = Path(path)
    if suffix_of(file) not in preflib.SUFFIXES:
        kinds = ", ".join(preflib.SUFFIXES)
        raise InvalidData(f"{file}: unknown kind of file {suffix_of(file)!r} for orders; use one of {kinds}.")
    text, notes = _text(file)
    return preflib.read_orders(file, text, suffix_of(file), notes)


def read_weights(path: str | os.PathLike[str], labels: tuple[str, ...]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """How often each pair was compared, from a square matrix, in the order of ``labels``; and what was assumed.

    Raises:
        InvalidData: it is no such matrix, or is about other alternatives.
    """
    file = Path(path)
    if suffix_of(file) == ".npy":
        return np.asarray(arrays.read_npy(file, read_bytes(file)), dtype=np.float64), (_in_order(file, labels),)
    found = _rows(file, suffix_of(file)) if suffix_of(file) in ROWS else None
    if isinstance(found, Table) and comparisons.kind_of(found) == "matrix":
        square = matrices.read_square(found)
    elif isinstance(found, arrays.Nested):
        square = matrices.Square(arrays.numbers_of(file, found.content), found.labels, ())
    else:
        raise InvalidData(f"{file}: must hold a square matrix, how often each pair was compared (.csv, .json or .npy).")
    n = len(square.labels or labels)
    if square.values.shape != (n, n):
        raise InvalidData(f"{file}: has shape {square.values.shape} for {n} alternatives; give one row each.")
    values = np.where(np.eye(len(square.values), dtype=bool), 0.0, square.values)
    matrices.refuse_blank(values, square.labels, file, "write 0 for a pair that was never compared")
    if square.labels is None:
        return values, (*square.notes, _in_order(file, labels))
    if sorted(square.labels) != sorted(labels):
        raise InvalidData(
            f"{file}: is about {', '.join(square.labels)}, but the preferences are about {', '.join(labels)}; "
            f"name the same alternatives."
        )
    index = [square.labels.index(label) for label in labels]
    return values[np.ix_(index, index)], square.notes


def require_comparisons(path: str | os.PathLike[str]) -> None:
    """Refuse a file that does not hold comparisons or battles.

    Raises:
        InvalidData: says what is read.
    """
    file = Path(path)
    table = _rows(file, suffix_of(file)) if suffix_of(file) in ROWS else None
    if not isinstance(table, Table) or comparisons.kind_of(table) == "matrix":
        seen = f"the first row is {', '.join(table.rows[0].cells)}" if isinstance(table, Table) else "it holds no rows"
        raise InvalidData(f"{file}: {seen}; it must name columns winner and loser, or model_a, model_b and winner.")


def suffix_of(path: str | os.PathLike[str]) -> str:
    """What kind of file a name says it is, compressed or not.

    Raises:
        InvalidData: none that is read.
    """
    file = Path(path)
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise InvalidData(f"{file}: unknown kind of file {suffix!r}; use one of {', '.join(SUFFIXES)}.")
    return suffix


def _of_table(table: Table, options: Options) -> Matrix:
    kind = comparisons.kind_of(table)
    if kind == "comparisons":
        return comparisons.read_comparisons(table, options)
    if kind == "battles":
        return comparisons.read_battles(table, options)
    return _of_matrix(table, options)


def _of_matrix(table: Table, options: Options) -> Matrix:
    if options.counts:
        options.allow(table.file, "counts", "counts")
        matrices.refuse_two_readings(table)
        return matrices.wins(matrices.read_square(table), table.file)
    options.allow(table.file, "a matrix", "percent", "symmetrise")
    return matrices.probabilities(matrices.read_square(table), table.file, options)


def _rows(file: Path, suffix: str) -> Table | arrays.Nested:
    """The table in a file of text or JSON, or the nested lists in the latter."""
    text, notes = _text(file)
    if suffix not in TABLES:
        return arrays.interpret(file, arrays.read_json(file, text))
    table = read_table(file, text)
    table.notes[:0] = notes
    return table


def _text(file: Path) -> tuple[str, tuple[str, ...]]:
    text, encoding = decode(file, read_bytes(file), FALLBACK)
    return text, (f"the text is not UTF-8 and was read as {FALLBACK} (Latin-1)",) if encoding == FALLBACK else ()


def _in_order(file: Path, labels: tuple[str, ...]) -> str:
    return f"{file} names no alternatives: they were taken in the order {', '.join(labels)}"
