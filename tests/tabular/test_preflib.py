"""PrefLib's formats: every order that they allow is read and written back as it was."""

from __future__ import annotations

import gzip
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from slhf.errors import InvalidData
from tabular import PreferenceMatrix, Profile
from tabular.files import read_orders, write_orders
from tests.tabular.strategies import examples
from tests.tabular.test_files import save

NAMES = ["A", "B, the second: best", "C\x85", "{D}", "5"]


def weak_orders(alternatives):
    """Every way to put these into groups of ties, best first."""
    if not alternatives:
        return [[]]
    found = []
    for size in range(1, len(alternatives) + 1):
        for group in combinations(alternatives, size):
            rest = [name for name in alternatives if name not in group]
            found += [[group, *tail] for tail in weak_orders(rest)]
    return found


def all_orders(suffix, n):
    """Every order that a file of this kind may hold, over n alternatives; incomplete ones may rank nobody."""
    sizes = [n] if suffix.endswith("c") else range(n + 1)
    orders = [o for size in sizes for chosen in combinations(NAMES[:n], size) for o in weak_orders(list(chosen))]
    return [order for order in orders if suffix.startswith(".t") or all(len(group) == 1 for group in order)]


@pytest.mark.parametrize(("suffix", "number"), [(".soc", 120), (".soi", 326), (".toc", 541), (".toi", 1082)])
def test_every_order_is_read_and_written_back(tmp_path, suffix, number):
    """Five alternatives, whose names hold commas, colons, braces and U+0085; the counts are 0, 1, 2, ..."""
    orders = all_orders(suffix, 5)
    assert len(orders) == number
    counts = list(range(len(orders)))
    file = tmp_path / f"p{suffix}"
    write_orders(file, NAMES, orders, counts)
    found = read_orders(file)
    assert (found.names, found.orders, found.counts) == (NAMES, orders, counts)
    assert found.notes == (f"1 of {number} orders have the count 0: nobody holds them",)
    again = tmp_path / f"again{suffix}"
    Profile.from_preflib(file, unranked="ignore").to_preflib(again)
    assert again.read_text().replace("again", "p") == file.read_text()


@pytest.mark.parametrize("suffix", [".soc", ".soi", ".toc", ".toi"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_order_of_the_format_before_2022_is_read(tmp_path, suffix, end):
    orders, place = all_orders(suffix, 4), {name: str(k) for k, name in enumerate(NAMES, 1)}
    lines = ["4", *(f"{k},{name}" for k, name in enumerate(NAMES[:4], 1)), f"{len(orders)},{len(orders)},{len(orders)}"]
    for order in orders:
        groups = [",".join(place[name] for name in group) for group in order]
        lines.append("1," + ",".join("{" + group + "}" if "," in group else group for group in groups))
    found = read_orders(save(tmp_path, f"p{suffix}", end.join(lines)))
    assert (found.names, found.orders) == (NAMES[:4], orders)
    assert found.notes == ("the format is PrefLib's from before 2022",)


@examples(60)
@given(data=st.data())
def test_a_line_may_be_written_in_many_ways(tmp_path_factory, data):
    """White space anywhere but in numbers, braces around one, CRLF, blank lines, a mark, compression."""
    order = data.draw(st.sampled_from(all_orders(".toi", 4)))
    place = {name: str(k) for k, name in enumerate(NAMES, 1)}
    space = st.sampled_from(["", " ", "\t", "  "])

    def spaced(text):
        return data.draw(space) + text + data.draw(space)

    def written(group):
        inside = ",".join(spaced(place[name]) for name in group)
        return spaced("{" + inside + "}" if len(group) > 1 or data.draw(st.booleans()) else inside)

    count = data.draw(st.integers(1, 10**12))
    line = spaced(str(count)) + ":" + ",".join(map(written, order))
    head = [
        "# NUMBER ALTERNATIVES: 4",
        *(f"#{spaced('')}ALTERNATIVE NAME {k}:{spaced(NAMES[k - 1])}" for k in (1, 2, 3, 4)),
    ]
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    content = end.join([*head, line, ""]).encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    name, content = data.draw(st.sampled_from([("p.toi", content), ("p.toi.gz", gzip.compress(content, mtime=0))]))
    found = read_orders(save(tmp_path_factory.mktemp("p"), name, content))
    assert (found.names, found.orders, found.counts) == (NAMES[:4], [order], [count])


def test_orders_that_nobody_holds_count_for_nothing(tmp_path):
    head = "# NUMBER ALTERNATIVES: 2\n# NUMBER VOTERS: 5\n# NUMBER UNIQUE ORDERS: {}\n"
    head += "# ALTERNATIVE NAME 1: A\n# ALTERNATIVE NAME 2: B\n"
    for unique in (2, 3):  # with and without it
        P = PreferenceMatrix.load(save(tmp_path, "p.toc", head.format(unique) + "3: 1,2\n2: 2,1\n0: {1,2}\n"))
        assert_array_equal(P.counts, [[0, 3], [2, 0]])
        assert P.notes == ("1 of 3 orders have the count 0: nobody holds them",)


def test_weighted_edges_are_counts_only_where_the_user_says_so(tmp_path):
    head = "# NUMBER ALTERNATIVES: 2\n# NUMBER EDGES: 2\n# ALTERNATIVE NAME 1: A\n# ALTERNATIVE NAME 2: B\n"
    file = save(tmp_path, "p.wmd", head + "1,2,3.0\n2, 1, 1.5\n")
    with pytest.raises(InvalidData, match=r"p\.wmd: holds weighted edges .*counts=True"):
        PreferenceMatrix.load(file)
    P = PreferenceMatrix.load(file, counts=True)
    assert_array_equal(P.counts, [[0, 3], [1.5, 0]])
    assert P.notes == ("the weight of an edge i,j is how often i beat j",)
    for edge in ("1,3,1", "1,2", "1,2,x", "a,2,1"):
        with pytest.raises(InvalidData, match=f"line 5: '{edge}' is no edge between alternatives from 1 to 2"):
            PreferenceMatrix.load(save(tmp_path, "p.wmd", head + edge), counts=True)


@pytest.mark.parametrize(
    ("names", "orders", "counts", "message"),
    [
        (["A", "B"], [[("A",)]], [1], "ranks 1 of 2"),
        (["A", "B"], [[("A", "B")]], [1], "is a tie"),
        (["A", " B"], [[("A",), (" B",)]], [1], "begins or ends with a space"),
        (["A", "B\nC"], [[("A",), ("B\nC",)]], [1], "line"),
        (["A", "A"], [[("A",)]], [1], "repeats the name"),
    ],
)
def test_what_the_format_cannot_say_is_not_written(tmp_path, names, orders, counts, message):
    with pytest.raises(InvalidData, match=message):
        write_orders(tmp_path / "p.soc", names, orders, counts)
    assert not (tmp_path / "p.soc").exists()


def test_shares_of_voters_are_not_written(tmp_path):
    with pytest.raises(InvalidData, match="no whole numbers"):
        Profile(["AB"], [0.5]).to_preflib(tmp_path / "p.soc")
    Profile(["AB", "BA"], np.array([2.0, 1.0])).to_preflib(tmp_path / "p.soc")
    assert str(Profile.from_preflib(tmp_path / "p.soc")) == "2: A > B\n1: B > A"
