"""What the packages need beside their code is in the wheel's lists, and every package is."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_installed_and_says_that_it_is_typed():
    named = {name.replace(".", "/") for name in TOOL["packages"]}
    there = {
        str(path.parent.relative_to(ROOT))
        for name in ("slhf", "tabular", "llm", "experiments")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert named == there
    for name in TOOL["packages"]:
        assert "." in name or (ROOT / name / "py.typed").is_file()


def test_every_file_that_is_no_code_is_installed():
    results = ROOT / "experiments" / "results"  # what was measured: for readers of the project's folder
    for name in TOOL["packages"]:
        folder = ROOT / name.replace(".", "/")
        patterns = [*TOOL["package-data"].get(name, ()), *TOOL["package-data"]["*"]]
        installed = {path for pattern in patterns for path in folder.glob(pattern)}
        inner = [path for path in folder.iterdir() if path.is_dir() and (path / "__init__.py").is_file()]
        for path in folder.rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc", ".nbi", ".nbc") or results in path.parents:
                continue
            if not any(other in path.parents for other in inner):
                assert path in installed, path
