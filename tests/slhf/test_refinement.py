import pytest

from slhf.refinement import refine


def test_each_round_improves_on_the_last_one():
    assert list(refine(lambda: "y", lambda y: y + "'", 3)) == ["y", "y'", "y''"]


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        list(refine(lambda: 0, lambda y: y, 0))
