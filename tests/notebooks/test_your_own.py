"""What notebooks/06_your_own.ipynb promises about its size, and that what it shows is there.

That it runs is checked where notebooks are executed.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

CELLS = json.loads((Path(__file__).resolve().parents[2] / "notebooks" / "06_your_own.ipynb").read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def lines_of(marker: str) -> int:
    """Lines of code in the cell that holds ``marker``: no imports, comments, docstrings or blanks."""
    (cell,) = [cell for cell in CODE if marker in "".join(cell["source"])]
    tree = ast.parse("".join(cell["source"]))
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    spans = [range(node.lineno, node.end_lineno + 1) for node in ast.walk(tree) if hasattr(node, "lineno")]
    return len({number for span in spans for number in span})


def test_an_algorithm_is_short_in_both_worlds():
    assert 10 < lines_of("tabular.dynamics.register(") < 40
    assert 10 < lines_of("llm.algorithms.register(") < 80


def test_it_is_a_story_of_ten_to_twenty_cells_that_was_executed():
    assert 10 <= len(CELLS) <= 20
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 3
