"""``python -m tabular describe``: the structure of a preference matrix."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from tabular.commands import options
from tabular.describe import as_table, describe


def add(commands: Any) -> None:
    """Declare the command."""
    parser = options.command(
        commands,
        "describe",
        run,
        help="winners, cycles, transitivity of a preference matrix",
        description="The structure of a preference matrix: winners, sets, scores, cycles, transitivity, reward misfit.",
        epilog=options.FILE_HELP,
    )
    options.file_options(parser)
    options.output_options(parser, "the preferences by Copeland score, upsets that close majority cycles outlined")


def run(args: argparse.Namespace) -> str:
    """The answer."""
    P = options.load(args)
    options.one_game(P, args)
    games = describe(P)
    if args.plot is not None:
        from tabular.commands import plots  # matplotlib takes longer to import than most games to solve

        plots.structure(args.plot, P)
    if args.json:
        return json.dumps({"games": games} if P.batch_shape else games[0], indent=2, allow_nan=False)
    titles = [f"game {index}\n" if index else "" for index in np.ndindex(P.batch_shape)]
    return "\n\n".join(title + as_table(game) for title, game in zip(titles, games, strict=True))
