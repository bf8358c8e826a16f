"""Every executable and every extra that the documentation or a message names exists."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.pages import PAGES, ROOT

TEXTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *PAGES]
PACKAGES = ("slhf", "tabular", "llm", "experiments")
CODE = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

ELSEWHERE = {
    "vllm": "the package vllm",
    "llama-server": "llama.cpp",
    "lm_eval": "the package lm_eval",
    "alpaca_eval": "the package alpaca_eval",
    "sqlite3": "SQLite",
    "tmux": "tmux",
    "python": "Python, in an activated environment",
}
"""Programs that are no part of the installation, and where they come from."""
BUILTIN = (".", "export", "cd", "echo")
LOOKS_LIKE_A_COMMAND = re.compile(
    r"([\w.]+-cli|hf|pip|make|python|accelerate|torchrun|slhf|huggingface\w*|wandb|\w+_eval) \w"
)


def exists(program: str) -> bool:
    """Whether it comes with the environment (``make setup``), the shell or the system, or is known to be elsewhere."""
    if program in BUILTIN or program in ELSEWHERE or program in PROJECT["scripts"]:
        return True
    return bool(shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program))


def programs(line: str) -> list[str]:
    """The first word of each command of a line; settings of variables before it are passed over."""
    found = []
    for command in re.split(r"\s(?:\||&&)\s", line):
        words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
        found += words[:1]
    return found


def shown_commands() -> list[tuple[str, str]]:
    """(page, line) of blocks of shell commands, and of code within the text that is a program with arguments."""
    found = []
    for page in TEXTS:
        name = str(page.relative_to(ROOT))
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
            lines = token.content.replace("\\\n", " ").split("\n")
            if token.type == "fence" and token.info in ("bash", "console"):
                start = "$ " if token.info == "console" else ""
                found += [(name, line.removeprefix(start)) for line in lines if line.startswith(start) and line.strip()]
            elif token.type == "code_block" and "win rate" not in token.content.lower():
                found += [(name, line) for line in lines if re.match(r"(make|python|torchrun|echo|slhf|hf|pip) ", line)]
            for child in token.children or []:
                if child.type == "code_inline" and LOOKS_LIKE_A_COMMAND.match(child.content):
                    found.append((name, child.content))
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_a_program_that_is_shown_exists(page, line):
    assert [program for program in programs(line) if not exists(program)] == [], page


def test_programs_are_told_from_what_is_none():
    assert programs("A=1 python x.py | head -3 # comment") == ["python", "head"]
    assert not exists("huggingface-cli")
    assert LOOKS_LIKE_A_COMMAND.match("huggingface-cli download x")


@pytest.mark.parametrize("path", [*TEXTS, *CODE, ROOT / "Makefile"], ids=lambda path: str(path.relative_to(ROOT)))
def test_an_extra_that_is_named_exists_and_no_index_is_said_to_have_the_project(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"pip install[^\n`]*?\.\[([\w,]+)\]", text)
    for extra in ",".join(named).split(","):
        assert not extra or extra in PROJECT["optional-dependencies"]
    if path.name != "extras.py":  # which knows whether the project came from an index
        assert not re.search(r"pip install[^\n]*slhf\[", text)


def test_messages_name_extras_that_exist():
    named = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("install_command", "require"):
                last = node.args[-1]
                named |= {last.value} if isinstance(last, ast.Constant) else set()
    assert named >= {"llm", "cluster", "judges"}
    assert named <= set(PROJECT["optional-dependencies"])
