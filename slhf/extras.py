"""Parts that are installed on demand, and the command that installs one into this environment."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

from slhf.errors import MissingResource

ROOT = Path(__file__).resolve().parent.parent


def install_command(extra: str) -> str:
    """What to type to add an extra: the project's folder or address, as it was installed from, with ``[extra]``."""
    from importlib import metadata  # here: it takes longer than all else that a command imports to say what it can

    try:
        source = json.loads(metadata.distribution("slhf").read_text("direct_url.json") or "null")
    except metadata.PackageNotFoundError:  # used from a folder that was never installed
        return f"pip install -e {shlex.quote(f'{ROOT}[{extra}]')}"
    if source is None:
        return f"pip install {shlex.quote(f'slhf[{extra}]')}"
    if "dir_info" in source:
        folder = source["url"].removeprefix("file://")
        editable = "-e " if source["dir_info"].get("editable") else ""
        return f"pip install {editable}{shlex.quote(f'{folder}[{extra}]')}"
    revision = source.get("vcs_info", {}).get("commit_id")
    address = f"{source['vcs_info']['vcs']}+{source['url']}@{revision}" if revision else source["url"]
    return f"pip install {shlex.quote(f'slhf[{extra}] @ {address}')}"


def require(package: str, what: str, extra: str) -> None:
    """Stop if a top-level package is missing that belongs to an extra; nothing is imported.

    Raises:
        MissingResource: ``what`` needs it, with the command that installs it.
    """
    if find_spec(package) is None:
        raise MissingResource(f"{what} needs the package {package}: {install_command(extra)}")
