"""Where policies are: run directories, checkpoints, adapters and models on disk, ids of the hub. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from slhf.errors import ConfigError, MissingResource

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find(title: str, what: str) -> Path | None:
    """The directory of a run, adapter or model that ``what`` stands for; None for a hub id or "embedded".

    Raises:
        MissingResource: there is no such directory.
        ConfigError: the directory is none of these.
    """
    path = Path(what).expanduser()
    if not path.is_dir():
        beside = "/" in what and Path(what.split("/")[0]).is_dir()
        if what != "embedded" and (path.exists() or beside or not HUB_ID.fullmatch(what)):
            raise MissingResource(f"{title}: there is no directory {what}.")
        return None
    if run_of(path) is None and not any((path / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise ConfigError(
            f"{title}: {path} is neither a run (manifest.json), an adapter (adapter_config.json) nor a model "
            "(config.json)."
        )
    return path


def run_of(path: Path) -> Path | None:
    """The run directory that ``path`` is, or is in as a checkpoint or its adapter; None outside of one."""
    places = [path, *path.absolute().parents[:2]]
    return next((place for place in places if (place / "manifest.json").is_file()), None) if path.is_dir() else None
