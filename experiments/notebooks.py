"""Execute notebooks from scratch, with this Python as their kernel, and keep what they show in place.

python experiments/notebooks.py [--check] [NOTEBOOK ...]
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from slhf.text import split_lines

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
CELL_SECONDS = 1800
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""All that an executed notebook says about where it ran."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute, report one line each; the exit status is 1 if any failed, and 2 if there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all of notebooks/")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, and fail where the text shown is not what is committed"
    )
    args = parser.parse_args(arguments)
    paths = args.notebooks or sorted(FOLDER.glob("*.ipynb"))
    if not paths:
        print(f"No notebook in {FOLDER}.", file=sys.stderr)
        return 2
    failed = [path for path in paths if not _one(path, args.check)]
    if failed:
        print(f"Failed: {', '.join(path.name for path in failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _one(path: Path, check: bool) -> bool:
    """Whether this notebook ran through and, if checked, still shows what it did."""
    started = time.monotonic()
    try:
        committed = nbformat.read(path, as_version=4)
        nbformat.validate(committed)
        notebook = execute(nbformat.read(path, as_version=4), path.resolve().parent)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        print(f"{path}: cannot be read: {error}", file=sys.stderr)
        return False
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return False
    change = "\n".join(difflib.unified_diff(shown(committed), shown(notebook), "committed", "now", lineterm="", n=1))
    if not check:
        nbformat.write(notebook, path)
    ok = not (check and change)
    note = "" if not change else "; shows other text than before" + (f":\n{change}" if check else "")
    print(f"{path.name}: {time.monotonic() - started:.0f} s{note}", flush=True)
    return ok


def execute(notebook: Any, folder: Path) -> Any:
    """The notebook with fresh outputs, and nothing in it of when and where it ran.

    No kernel need be registered and none is looked for: the kernel is this interpreter. The user's own IPython
    configuration plays no part.

    Raises:
        CellExecutionError, CellTimeoutError, DeadKernelError: a cell failed; no tag excuses it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        kernel = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True),
            connection_file=f"{scratch}/kernel.json",
            transport="ipc",  # no network port
        )
        client = NotebookClient(
            notebook,
            kernel,
            timeout=CELL_SECONDS,
            record_timing=False,
            force_raise_errors=True,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(cleanup_kc=True, env=os.environ | {"IPYTHONDIR": scratch})
    notebook.metadata = nbformat.from_dict(METADATA | {"slhf": {"executed": digest(notebook)}})
    return notebook


def digest(notebook: Any) -> str:
    """Of the code: an executed notebook keeps it, so that a cell edited since is noticed without executing."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def shown(notebook: Any) -> list[str]:
    """What the cells say in text, line by line; pictures differ from machine to machine and are left out."""
    lines = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            text = output.get("text", output.get("data", {}).get("text/plain", ""))
            lines += [f"cell {number}: {line}" for line in split_lines(text)]
    return lines


if __name__ == "__main__":
    sys.exit(main())
