"""The text of files as people have them: UTF-8, UTF-16 as spreadsheets save it, compressed with gzip or not.

Every reader of text in the project goes through here, so that all of them take the same files and name the file, line
and byte of what they cannot read.
"""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from pathlib import Path

from slhf.errors import InvalidData

GZIP = b"\x1f\x8b"
"""How a file compressed with gzip begins."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),  # begins like UTF-16's, so it is looked for first
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)


def read_text(path: str | os.PathLike[str], fallback: str | None = None) -> str:
    """The text of a file, without a byte order mark; line ends stay as they are (see :func:`split_lines`).

    Args:
        path: a file in UTF-8, or in UTF-16 or UTF-32 that says so by its byte order mark; decompressed if it is
            compressed with gzip, whatever its name.
        fallback: the encoding of a file that is none of those, such as "cp1252" (Latin-1 as Windows writes it).
            Any bytes are text in it, so the caller tells the user; :func:`decode` says whether it was needed.

    Raises:
        InvalidData: names the file, and the line and byte where there is one.
    """
    return decode(path, read_bytes(path), fallback)[0]


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """What a file holds, decompressed if it is compressed with gzip.

    Raises:
        InvalidData: it cannot be read, or is compressed and damaged.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
        if data.startswith(GZIP):
            return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidData(f"{file}: is compressed with gzip and damaged ({error}); fetch it again.") from error
    except OSError as error:
        raise InvalidData(f"{file}: cannot be read: {error.strerror or error}.") from error
    if file.suffix.lower() == ".gz":
        raise InvalidData(f"{file}: is named .gz but is not compressed with gzip; give it the name of what it is.")
    return data


def decode(path: str | os.PathLike[str], data: bytes, fallback: str | None = None) -> tuple[str, str]:
    """The text in ``data``, which ``path`` held, and the name of its encoding; as :func:`read_text`.

    Raises:
        InvalidData: it is no such text; names the file, line and byte.
    """
    mark, encoding = next((pair for pair in BYTE_ORDER_MARKS if data.startswith(pair[0])), (b"", "UTF-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if fallback and not mark:
            return _decode_fallback(path, data, fallback), fallback
        raise InvalidData(_undecodable(path, data, len(mark) + error.start, encoding)) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InvalidData(f"{os.fspath(path)}: line {line}: holds a zero byte, so it is no text; save it as UTF-8.")
    return text, encoding


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, which end at \n or \r\n and nowhere else.

    ``str.splitlines`` also splits at characters that names and prompts hold, such as U+0085 and U+2028.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _decode_fallback(path: str | os.PathLike[str], data: bytes, fallback: str) -> str:
    try:
        return data.decode(fallback)
    except UnicodeDecodeError as error:
        raise InvalidData(_undecodable(path, data, error.start, f"UTF-8 or {fallback}")) from error


def _undecodable(path: str | os.PathLike[str], data: bytes, position: int, encoding: str) -> str:
    line = data.count(b"\n", 0, position) + 1
    where = f"{os.fspath(path)}: line {line}: byte {position} (0x{data[position]:02x})"
    return f"{where} is not text in {encoding}; save the file as UTF-8."
