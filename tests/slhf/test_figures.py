"""Figures: a concept keeps its colour, and what is drawn is where it should be."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from numpy.testing import assert_allclose

from slhf import figures
from slhf.figures import ANSWERS, CONCEPTS, PALETTE


def colours(names):
    _, axes = figures.new_figure()
    figures.curves(axes[0, 0], {name: ([0, 1], [0, 1]) for name in names}, "x", "y")
    return dict(zip(names, (line.get_color() for line in axes[0, 0].lines), strict=True))


@pytest.mark.parametrize("names", [["RLHF", "NLHF", "SLHF Leader"], ["SLHF", "NLHF, τ = 1", "gap", "RLHF"]])
def test_a_concept_has_its_colour_wherever_it_stands(names):
    drawn = colours(names)
    for name in names:
        concept = name[:4]
        assert (drawn[name].upper() == CONCEPTS.get(concept)) == (concept in CONCEPTS)
    assert len(set(drawn.values())) == len(names)


def test_the_follower_is_not_the_leader_and_others_take_the_palette_in_order():
    assert colours(["SLHF Leader", "SLHF Follower"])["SLHF Follower"].upper() == PALETTE[3]
    assert [c.upper() for c in colours(["a", "b", "c"]).values()] == list(PALETTE[:3])
    assert [c.upper() for c in colours(["a", "RLHF", "b"]).values()] == [PALETTE[1], PALETTE[0], PALETTE[2]]


def test_series_of_one_concept_differ_in_shade_and_line():
    _, axes = figures.new_figure()
    figures.curves(axes[0, 0], {f"SLHF, τ = {t}": ([0, 1], [0, 1]) for t in range(3)}, "x", "y")
    lines = axes[0, 0].lines
    brightness = [sum(mpl.colors.to_rgb(line.get_color())) for line in lines]
    assert brightness == sorted(set(brightness))
    assert len({line.get_linestyle() for line in lines}) == 3


def test_bars_and_paths_use_the_same_colours():
    _, axes = figures.new_figure(columns=2)
    figures.bars(axes[0, 0], {"NLHF": [0.5, 0.5], "RLHF": [1, 0]}, "AB", "probability")
    first, *_ = axes[0, 0].patches
    assert mpl.colors.to_hex(first.get_facecolor()).upper() == CONCEPTS["NLHF"]
    figures.simplex_path(axes[0, 1], {"SLHF": np.eye(3)}, "ABC")
    assert axes[0, 1].lines[0].get_color().upper() == CONCEPTS["SLHF"]


def test_a_figure_shows_itself_in_a_notebook_with_the_same_bytes_each_time():
    def picture():
        figure, axes = figures.new_figure()
        figures.curves(axes[0, 0], {"RLHF": ([0, 1], [1, 0])}, "x", "y")
        return figure._repr_png_()

    assert picture().startswith(b"\x89PNG")
    assert picture() == picture()


def test_a_map_of_the_triangle_has_each_answers_colour_where_it_is_given():
    grid = np.array([(i, j, 10 - i - j) for i in range(11) for j in range(11 - i)]) / 10
    _, axes = figures.new_figure()
    figures.simplex_map(axes[0, 0], grid, np.eye(3)[grid.argmax(1)], ("x", "y", "z"), "ABC")
    (cells,) = axes[0, 0].collections
    assert len(cells.get_paths()) == 100  # all of the triangle, once
    middles = np.array([path.vertices[:3].mean(0) for path in cells.get_paths()])
    for corner, answer in zip(figures.SIMPLEX, ANSWERS, strict=True):
        nearest = np.argmin(np.linalg.norm(middles - corner, axis=1))
        assert_allclose(cells.get_facecolors()[nearest][:3], mpl.colors.to_rgb(answer))


def test_bands_lie_around_their_lines_in_their_colour():
    _, axes = figures.new_figure()
    figures.bands(axes[0, 0], {"SLHF": ([0, 1, 2], [1, 2, 3], [0, 1, 2], [4, 5, 6])}, "x", "y")
    (band,) = axes[0, 0].collections
    assert_allclose([band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()], [0, 6])
    assert mpl.colors.to_hex(band.get_facecolors()[0]).upper() == CONCEPTS["SLHF"]


def test_numbers_can_be_read_on_every_cell():
    for diverging in (True, False):
        _, axes = figures.new_figure()
        figures.heat_map(axes[0, 0], [[0, 0.25], [0.75, 1]], "AB", "AB", diverging=diverging)
        (image,) = axes[0, 0].images
        for text, value in zip(axes[0, 0].texts, (0.0, 0.25, 0.75, 1.0), strict=True):
            ground = np.mean(image.cmap(value)[:3])
            assert abs(np.mean(mpl.colors.to_rgb(text.get_color())) - ground) > 0.3
