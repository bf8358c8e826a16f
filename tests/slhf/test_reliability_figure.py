import numpy as np

from slhf import figures


def test_a_reliability_diagram_shows_every_bin_with_its_interval():
    _, axes = figures.new_figure()
    bins = [
        {"predicted": 0.55, "observed": 0.4, "low": 0.1, "high": 0.6, "n": 10},
        {"predicted": 0.9, "observed": 1.0, "low": 0.8, "high": 1.0, "n": 40},
    ]
    figures.reliability(axes[0, 0], bins, "p", "f", "title")
    (points,) = [c for c in axes[0, 0].collections if len(c.get_offsets()) == 2]
    np.testing.assert_allclose(points.get_offsets(), [[0.55, 0.4], [0.9, 1.0]])
    assert points.get_sizes()[0] < points.get_sizes()[1]
    segments = [c.get_segments() for c in axes[0, 0].collections if hasattr(c, "get_segments")]
    np.testing.assert_allclose(segments[0][0], [[0.55, 0.1], [0.55, 0.6]])
    low, high = axes[0, 0].get_ylim()
    assert low < 0.1
    assert high > 1
