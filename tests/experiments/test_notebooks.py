"""The notebooks as committed, and the command that executes them."""

from __future__ import annotations

import json
import sys

import nbformat
import pytest

from experiments import notebooks
from experiments.notebooks import FOLDER, METADATA, digest, main

COMMITTED = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(COMMITTED) >= 4


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_notebook_was_executed_as_it_stands(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata["slhf"]["executed"] == digest(notebook), "edited since: run experiments/notebooks.py"
    assert {name: notebook.metadata[name] for name in notebook.metadata if name != "slhf"} == METADATA
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert path.stat().st_size < 1_000_000
    text = path.read_text()
    assert not [place for place in ("/tmp/", "/home/", "/root/", "site-packages", " at 0x") if place in text]


def write(path, *sources, tags=()):
    about = {"tags": list(tags)}
    cells = [nbformat.v4.new_code_cell(source, metadata=about, id=f"c{i}") for i, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def text_of(path):
    return notebooks.shown(nbformat.read(path, as_version=4))


def test_executed_by_this_python_and_the_same_bytes_again(tmp_path, monkeypatch, capsys):
    """A kernel that the user registered under the usual name is not taken."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "another Python", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = write(tmp_path / "a.ipynb", "import os, sys", "print(sys.executable)\nprint(os.getcwd())\n1 + 1")
    assert main([str(path)]) == 0
    assert text_of(path) == [f"cell 1: {sys.executable}", f"cell 1: {tmp_path}", "cell 1: 2"]
    assert "shows other text" in capsys.readouterr().out
    first = path.read_bytes()
    assert set(nbformat.read(path, as_version=4).metadata) == {*METADATA, "slhf"}
    assert main(["--check", str(path)]) == 0
    assert main([str(path)]) == 0
    assert path.read_bytes() == first
    assert "shows other text" not in capsys.readouterr().out


def test_what_is_no_longer_shown_fails_the_check_and_is_left_as_it_is(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", "print('now')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="then\n")]
    nbformat.write(notebook, path)
    before = path.read_bytes()
    assert main(["--check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "-cell 0: then" in out
    assert "+cell 0: now" in out
    assert path.read_bytes() == before


def test_an_error_fails_whatever_tags_say_and_others_still_run(tmp_path, capsys):
    bad = write(tmp_path / "bad.ipynb", "1 / 0", "print('not reached')", tags=["raises-exception"])
    good = write(tmp_path / "good.ipynb", "print('reached')")
    before = bad.read_bytes()
    assert main([str(bad), str(good)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert bad.read_bytes() == before
    assert text_of(good) == ["cell 0: reached"]


CELL = {"id": "a", "cell_type": "no such type", "metadata": {}, "source": ""}
BAD = {"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.mark.parametrize("content", [None, "{", json.dumps(BAD)])
def test_what_is_no_notebook_fails(tmp_path, capsys, content):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_text(content)
    assert main([str(path)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_an_edit_of_code_is_noticed_and_one_of_text_is_not():
    notebook = nbformat.read(COMMITTED[0], as_version=4)
    before = digest(notebook)
    next(cell for cell in notebook.cells if cell.cell_type == "markdown").source += " More."
    assert digest(notebook) == before
    notebook.cells[-2].source += "\n1"
    assert notebook.cells[-2].cell_type == "code"
    assert digest(notebook) != before


def test_no_notebook_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    assert main([]) == 2
    assert "No notebook in" in capsys.readouterr().err
