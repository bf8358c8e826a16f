"""One reader of text: encodings, compression, and errors that name the line and byte."""

import gzip
import re

import pytest

from slhf.errors import InvalidData
from slhf.text import decode, read_text, split_lines

TEXT = "naïve,β\r\n雪,\x85\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_the_text_is_what_was_written_whatever_its_encoding(tmp_path, encoding, compress, name):
    path = tmp_path / name
    path.write_bytes(compress(TEXT.encode(encoding)))
    if compress is bytes and name.endswith(".gz"):
        with pytest.raises(InvalidData, match=r"a\.csv\.gz: is named \.gz but is not compressed"):
            read_text(path)
    else:
        assert read_text(path) == TEXT


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\x00\x00\xfe\xff", "utf-32-be")])
def test_the_other_byte_order_is_read_too(tmp_path, mark, encoding):
    (tmp_path / "a").write_bytes(mark + TEXT.encode(encoding))
    assert read_text(tmp_path / "a") == TEXT


def test_latin_1_is_read_only_when_asked_for_and_reported(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x\nna\xefve")
    with pytest.raises(InvalidData, match=r"a\.csv: line 2: byte 4 \(0xef\) is not text in UTF-8; save the file"):
        read_text(path)
    assert read_text(path, fallback="cp1252") == "x\nnaïve"
    assert decode(path, b"na\xefve", "cp1252") == ("naïve", "cp1252")
    assert decode(path, "naïve".encode(), "cp1252") == ("naïve", "UTF-8")
    with pytest.raises(InvalidData, match=r"line 1: byte 0 \(0x81\) is not text in UTF-8 or cp1252"):
        decode(path, b"\x81", "cp1252")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"A,B\n" * 100, mtime=0)[:-9], "is compressed with gzip and damaged"),
        (gzip.compress(b"A,B\n" * 100, mtime=0)[:12] + b"\xff" * 40, "is compressed with gzip and damaged"),
        ("A,B\n1".encode("utf-16-le"), "line 1: holds a zero byte, so it is no text"),
        (b"\xff\xfea", r"line 1: byte 2 \(0x61\) is not text in UTF-16-LE"),
    ],
)
def test_what_is_no_text_is_one_line(tmp_path, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InvalidData, match=f"^{re.escape(str(tmp_path / 'a'))}: {message}"):
        read_text(tmp_path / "a")


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidData, match=f"^{re.escape(str(path))}: cannot be read: "):
            read_text(path)


def test_lines_end_at_newlines_only():
    assert split_lines("a\x85b\u2028c\x0bd\n\r\ne\r\n") == ["a\x85b\u2028c\x0bd", "", "e"]
    assert split_lines("a\nb") == ["a", "b"]
    assert split_lines("") == []
