"""What a reader would do with a page: run its blocks from top to bottom, in one folder, in one interpreter."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
CAPTION = re.compile(r":caption: (.*)")
TIMEOUT = 300
"""Seconds that one command may take."""


@dataclass(frozen=True)
class Block:
    """A fenced block: "python" and "bash" are run, "console" is not, "text" is what the block before it prints.

    A block with a caption is a file of that name.
    """

    language: str
    content: str
    caption: str | None
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a Markdown page; MyST's ``{code-block} LANGUAGE`` included."""
    blocks = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            language, content, caption = token.info.strip(), token.content, None
            if language.startswith("{code-block}"):
                language = language.removeprefix("{code-block}").strip()
                while content.startswith(":"):
                    option, _, content = content.partition("\n")
                    caption = match[1] if (match := CAPTION.fullmatch(option)) else caption
            blocks.append(Block(language, content.lstrip("\n"), caption, token.map[0] + 1 if token.map else 0))
    return blocks


def run(blocks: list[Block], folder: Path) -> list[tuple[Block, str, str | None]]:
    """Each block that was run, what it printed, and what the page says it prints (None if nothing).

    ``folder`` is the present folder and sees the project's own as if it were its root. An exception or a failed
    command is passed on. The module "page" stays behind, for the classes that the page defined.
    """
    for name in ("experiments", "benchmarks", "figures"):
        (folder / name).symlink_to(ROOT / name)
    sys.modules["page"] = module = ModuleType("page")  # dataclasses look their module up
    names = vars(module)
    ran: list[tuple[Block, str, str | None]] = []
    for place, block in enumerate(blocks):
        if block.caption is not None:
            (folder / block.caption).write_text(block.content, encoding="utf-8")
        elif block.language in ("python", "bash"):
            printed = run_python(block, names) if block.language == "python" else run_bash(block, folder)
            after = blocks[place + 1] if place + 1 < len(blocks) else None
            said = after.content if after is not None and (after.language, after.caption) == ("text", None) else None
            ran.append((block, printed, said))
    return ran


def run_python(block: Block, names: dict[str, Any]) -> str:
    """What the block prints, run with the names of those before it."""
    code = compile("\n" * block.line + block.content, "page", "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def run_bash(block: Block, folder: Path) -> str:
    """What the commands print, with this Python first on the path."""
    found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": found, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        ["bash", "-euc", block.content], cwd=folder, env=variables, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, f"line {block.line}: {block.content}\n{done.stderr}"
    return done.stdout


NUMBER = re.compile(r"(?<![\w.])-?\d+\.?\d*(?:e[+-]?\d+)?(?![\w])", re.IGNORECASE)


def agrees(printed: str, said: str) -> bool:
    """Whether a page's output is the one that was printed; a line "..." stands for any number of lines.

    Numbers may differ by 1e-6 or a thousandth: what is zero up to rounding is another number on another machine.
    """
    parts = [re.escape(NUMBER.sub("#", _squeezed(part))) for part in re.split(r"^\.\.\.$", said, flags=re.MULTILINE)]
    match = re.fullmatch("(.*)".join(parts), NUMBER.sub("#", _squeezed(printed)), re.DOTALL)
    if match is None or len(parts) > 1:
        return match is not None
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(said), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=1e-6) for a, b in pairs)


def _squeezed(text: str) -> str:
    """One space for any white space; widths of columns depend on the numbers in them."""
    return " ".join(re.sub("-{3,}", "---", text).split())
