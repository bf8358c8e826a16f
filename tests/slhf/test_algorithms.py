import dataclasses
import math

import pytest

from slhf.algorithms import ALGORITHMS, RLOO, NashMD, StackelbergGDA
from slhf.errors import InvalidParameter


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (StackelbergGDA, "tau_leader", -0.1),
        (StackelbergGDA, "tau_follower", math.nan),
        (StackelbergGDA, "learning_rate", 0),
        (StackelbergGDA, "timescale", 0),
        (StackelbergGDA, "leader_samples", 0),
        (StackelbergGDA, "leader_samples", 1.5),
        (StackelbergGDA, "timescale", True),
        (RLOO, "samples", 1),
        (RLOO, "tau", "0.1"),
        (NashMD, "mixture", 1.5),
    ],
)
def test_ranges_are_checked_by_name(cls, field, value):
    with pytest.raises(InvalidParameter, match=f"{cls.__name__}.{field}"):
        cls(**{field: value})


@pytest.mark.parametrize("cls", ALGORITHMS.values())
def test_specs_are_frozen_and_hashable(cls):
    spec = cls()
    assert hash(spec) == hash(cls())
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.learning_rate = 1.0
