"""The documentation does what it says: its code runs, prints what it shows, and its links and commands exist."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.util import find_spec
from itertools import pairwise
from urllib.parse import urlparse

import pytest

from experiments.config import load_sweep
from tabular import dynamics
from tests.docs.pages import PAGES, ROOT, Block, agrees, blocks_of, run

RUN = [page for page in [*PAGES, ROOT / "README.md"] if any(b.language in ("python", "bash") for b in blocks_of(page))]
LINK = re.compile(r"\]\(<?(https?:[^)>\s]*)|<(https?:[^>\s]*)>")


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_s_code_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamics, "DYNAMICS", dict(dynamics.DYNAMICS))  # a page may register an algorithm
    monkeypatch.delitem(sys.modules, "page", raising=False)
    for block, printed, said in run(blocks_of(page), tmp_path):
        assert said is None or agrees(printed, said), f"line {block.line} prints:\n{printed}"


def commands():
    """(page, command) of each line of a "console" block that starts with "$"."""
    found = []
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "console":
                text = block.content.replace("\\\n", " ")
                found += [(page, line[2:]) for line in text.split("\n") if line.startswith("$ ")]
    return found


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_that_is_not_run_names_files_modules_and_keys_that_exist(page, command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "-m"] or words[0] == "torchrun":
        words = words[words.index("-m") :] if "-m" in words else words[[w.endswith(".py") for w in words].index(True) :]
        assert words[0] != "-m" or find_spec(words[1])
    elif words[0] == "python":
        words = words[1:]
    if words[0].endswith(".py"):
        own = {block.caption for block in blocks_of(page)}
        assert words[0] in own or (ROOT / words[0]).is_file()
    if words[0] == "experiments/run.py":
        written = [word for word in words[1:] if word.endswith(".yaml")]
        sweep = ROOT / (written[0] if written else "experiments/sweeps/quickstart.yaml")
        for block in blocks_of(page):
            if written and block.caption == written[0]:
                sweep = tmp_path / written[0]
                sweep.write_text(block.content)
        load_sweep(sweep, [value for option, value in pairwise(words) if option == "--set"])


def test_external_links_are_complete_addresses():
    for page in PAGES:
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            address = urlparse(match[1] or match[2])
            assert address.scheme == "https", match[0]
            assert "." in address.netloc, match[0]
            if address.netloc == "arxiv.org":
                assert re.fullmatch(r"/abs/\d{4}\.\d{5}", address.path), match[0]


def test_outputs_are_compared():
    """The comparison itself: it sees a wrong digit and a missing line, but neither widths nor what is zero."""
    assert agrees("a 1\nb 2\nc 3\n", "a 1\n...\nc 3\n")
    assert agrees("a    1.0000001 3e-17\n", "a 1.0 0e+00\n")
    assert not agrees("a 1\nb 0.52\n", "a 1\nb 0.53\n")
    assert not agrees("a 1\nb 2\nc 3\n", "a 1\nc 3\n")
    assert not agrees("a 1\nb 2", "a 1")
    assert not agrees("a 1\nb 2\nc 3\n", "a 1\n...\nd 3\n")


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```{code-block} yaml\n:caption: a.yaml\n\nname: a\n```\n")
    assert blocks_of(page) == [Block("python", "x = 1\n", None, 1), Block("yaml", "name: a\n", "a.yaml", 5)]
