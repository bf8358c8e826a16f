"""Texts that begin alike, read once: each row of a batch is a tree of tokens in place of a single text.

Two answers to one prompt share its tokens, and prompts share a system message. A token of a tree sees its ancestors
alone and stands at the position it has in its text, so a model reads every text as if it stood alone. The longer a row,
the more attention is computed in vain (the mask hides it afterwards), so rows end at a limit; longer texts get a row
of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

ROW_TOKENS = 256
"""A row takes up no further text when it would become longer than this."""


@dataclass
class Tree:
    """One row: tokens, the place of each token's parent (-1 for the first), and where each text ends."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    """By number of the text, the place of its last token."""

    def grow(self, path: list[int], text: Sequence[int], number: int) -> list[int]:
        """Add a text whose first ``len(path)`` tokens are already there, at these places; the places of all of it."""
        path = list(path)
        for token in text[len(path) :]:
            self.parents.append(path[-1] if path else -1)
            path.append(len(self.tokens))
            self.tokens.append(token)
        self.ends[number] = path[-1]
        return path


def plant(texts: Sequence[Sequence[int]], limit: int = ROW_TOKENS) -> list[Tree]:
    """Trees that hold all texts, each in one of them; texts that begin alike come together.

    Args:
        texts: token ids, none empty.
        limit: the most tokens of a tree of several texts.
    """
    trees: list[Tree] = []
    last: Sequence[int] = ()
    path: list[int] = []
    for number in sorted(range(len(texts)), key=lambda i: tuple(texts[i])):
        text = texts[number]
        shared = _alike(last, text)
        if not trees or len(trees[-1].tokens) + len(text) - shared > limit:
            trees.append(Tree())
            shared = 0
        last, path = text, trees[-1].grow(path[:shared], text, number)
    return trees


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first elements are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass(frozen=True)
class TreeBatch:
    """Trees as right-padded rows.

    Attributes:
        ids: (N, T), token ids.
        positions: (N, T), each token's position within its text.
        sees: (N, T, T), whether the row's token [i] sees its token [j].
        rows: (M,), the row of each text.
        ends: (M,), where in it the text ends: ``ids[rows[m], ends[m]]`` is its last token.
        numbers: (M,), the texts' numbers.
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    rows: Tensor
    ends: Tensor
    numbers: list[int]

    @classmethod
    def pack(cls, trees: Sequence[Tree], pad: int, device: torch.device | str) -> TreeBatch:
        """Pad the trees to the largest. Padding sees itself, for a softmax over nothing is not a number."""
        length = max(len(tree.tokens) for tree in trees)
        ids = np.full((len(trees), length), pad, dtype=np.int64)
        sees = np.zeros((len(trees), length, length), dtype=bool)
        sees[:, range(length), range(length)] = True
        for row, tree in enumerate(trees):
            ids[row, : len(tree.tokens)] = tree.tokens
            for place, parent in enumerate(tree.parents):
                if parent >= 0:
                    sees[row, place] |= sees[row, parent]
        where = [(row, end, number) for row, tree in enumerate(trees) for number, end in tree.ends.items()]
        return cls(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(sees.sum(-1) - 1).to(device),
            torch.from_numpy(sees).to(device),
            torch.tensor([row for row, _, _ in where], device=device),
            torch.tensor([end for _, end, _ in where], device=device),
            [number for _, _, number in where],
        )

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(N, 1, T, T), to be added to attention scores."""
        hidden = torch.zeros(self.sees.shape, dtype=dtype, device=self.sees.device)
        return hidden.masked_fill_(~self.sees, torch.finfo(dtype).min).unsqueeze(1)
