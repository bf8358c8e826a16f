"""Answers that were paid for, kept on the disk by what was asked."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from slhf.errors import JudgeError

TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, url TEXT, request TEXT, answer TEXT)"


class AnswerStore:
    """Texts of answers by url and text of the request, in one SQLite file that several processes may share.

    A context manager; use it in the thread that entered it. SQLite's rollback journal, its default, is kept: unlike
    the faster write-ahead log it works on network file systems.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url

    def __enter__(self) -> AnswerStore:
        """Open or make the file.

        Raises:
            JudgeError: it cannot be written, or is not such a file.
        """
        with self._failing_clearly():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # no isolation level: each INSERT is a transaction of its own, on the disk when `execute` returns
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.execute(TABLE)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()

    def find(self, requests: Sequence[str]) -> dict[str, str]:
        """The kept answers by request; requests without one are left out."""
        found = {request: self._read(request) for request in requests}
        return {request: answer for request, answer in found.items() if answer is not None}

    def keep(self, request: str, answer: str) -> str:
        """Keep the answer; once this returns, no crash loses it.

        Returns:
            What is kept: the other answer if another process was faster, so that a resumed run sees what this one saw.

        Raises:
            JudgeError: the disk is full, or the file is gone or locked for a minute.
        """
        with self._failing_clearly():
            values = (self._key(request), self.url, request, answer)
            self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", values)
        return self._read(request) or answer

    def _read(self, request: str) -> str | None:
        with self._failing_clearly():
            query = "SELECT answer FROM answers WHERE key = ?"
            row = self._connection.execute(query, (self._key(request),)).fetchone()
        return None if row is None else row[0]

    def _key(self, request: str) -> str:
        return hashlib.sha256(f"{self.url}\n{request}".encode()).hexdigest()

    @contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JudgeError(
                f"The judge's answers cannot be kept in {self.path} ({error}), and would be paid for again. "
                "Free its disk, move the file away if it is damaged, or name another one as judge.cache."
            ) from error
