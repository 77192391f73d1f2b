"""Every way text comes in, and every way it can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gptwo.base.errors import DataError, MissingExtraError
from gptwo.data import Sources
from gptwo.data.text import decoded_blocks


def texts(*paths: Path, **settings: object) -> list[tuple[str, str]]:
    sources = Sources([str(path) for path in paths], **settings)  # type: ignore[arg-type]
    return [(Path(document.name).name, "".join(document.blocks)) for document in sources]


def test_a_text_file_is_taken_byte_for_byte(tmp_path: Path) -> None:
    text = "\ufeffline\r\nline\rline\n\x00 é 中 👩 no end"
    (tmp_path / "a.md").write_bytes(text.encode())
    assert texts(tmp_path / "a.md") == [("a.md", text)]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.py", "a/y.jsonl", ".hidden", ".git/config", "c.png", "out/x.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text({"a/y.jsonl": '{"text": "yy"}', "empty.txt": ""}.get(name, name))
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling.txt")
    os.mkfifo(tmp_path / "pipe")
    sources = Sources([str(tmp_path)], exclude=tmp_path / "out")
    for _ in range(2):
        found = [(Path(document.name).name, "".join(document.blocks)) for document in sources]
        assert found == [("b.txt", "b.txt"), ("empty.txt", ""), ("y.jsonl:1", "yy"), ("z.py", "a/z.py")]
        assert (sources.skipped.binary, sources.skipped.hidden) == (1, 1)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_json_lines_plain_and_packed(packing: str, tmp_path: Path) -> None:
    file = tmp_path / f"posts.jsonl{packing}"
    content = '\ufeff{"text": "a\\r\\nb", "n": 1}\n\n{"text": ""}\r\n{"text": "\u2028é"}'.encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packing]
    file.write_bytes(pack(content[:20]) + pack(content[20:]))
    name = file.name
    assert texts(file) == [(f"{name}:1", "a\r\nb"), (f"{name}:3", ""), (f"{name}:4", "\u2028é")]


def test_csv_keeps_line_ends_quotes_and_long_cells(tmp_path: Path) -> None:
    long = "x" * 200_000
    (tmp_path / "t.csv").write_bytes(f'id,text\n1,"a\r\nb ""q"""\n\n2,{long}\n'.encode())
    assert texts(tmp_path / "t.csv") == [("t.csv:3", 'a\r\nb "q"'), ("t.csv:5", long)]
    assert texts(tmp_path / "t.csv", text_field="id")[0][1] == "1"


def test_parquet_rows(tmp_path: Path) -> None:
    rows = [f"row {number} é" for number in range(1000)]
    pyarrow.parquet.write_table(pyarrow.table({"body": rows, "n": range(1000)}), tmp_path / "t.parquet")
    found = texts(tmp_path / "t.parquet", text_field="body")
    assert [text for _, text in found] == rows
    assert found[-1][0] == "t.parquet:1000"
    with pytest.raises(DataError, match=r"no column 'text'; its columns are 'body', 'n'"):
        texts(tmp_path / "t.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "null.parquet")
    with pytest.raises(DataError, match=r"null.parquet:2: field 'text' is NoneType"):
        texts(tmp_path / "null.parquet")
    (tmp_path / "not.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not Parquet that can be read"):
        texts(tmp_path / "not.parquet")


BAD_RECORDS = [
    ("a.jsonl", b'{"text": "x"}\n{"body": 1}\n', r"a.jsonl:2 has no field 'text'; its fields are 'body'"),
    ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', r"a.jsonl:2: field 'text' is int; expected text"),
    ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', r"a.jsonl:3 is not JSON"),
    ("a.jsonl", b"[1]\n", r"a.jsonl:1 holds list; expected an object"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"a.jsonl: byte 0xff at offset 24 is not UTF-8"),
    ("a.csv", b"id,body\n1,x\n", r"a.csv has no column 'text'; its columns are 'id', 'body'"),
    ("a.csv", b"id,text\n1,x\n2\n", r"a.csv:3 has 1 cells; expected 2"),
    ("a.csv", b'text\n"open\n', r"a.csv:2 is not CSV"),
    ("a.csv", b"text\nok\nb\xe9d\n", r"a.csv: byte 0xe9 at offset 9 is not UTF-8"),
    ("a.txt", b"caf\xe9 au lait", r"a.txt: byte 0xe9 at offset 3 is not UTF-8"),
    ("a.txt", "é".encode() + b"ab\xe4\xb8", r"a.txt: byte 0xe4 at offset 4 is not UTF-8 \(unexpected end"),
    ("a.txt", "hi".encode("utf-16"), r"offset 0 is not UTF-8 .* looks like UTF-16"),
    ("a.txt.gz", gzip.compress(b"text" * 1000, mtime=0)[:-9], r"a.txt.gz is not whole gzip data"),
    ("a.txt.gz", b"text", r"a.txt.gz is not whole gzip data"),
    ("a.txt.zst", zstandard.compress(os.urandom(1000))[:-5], r"a.txt.zst is not whole zstandard data"),
    ("a.txt.zst", b"text" * 9, r"a.txt.zst is not whole zstandard data"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_RECORDS)
def test_what_is_wrong_is_named_with_its_place(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        texts(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 64])
def test_the_offset_of_a_bad_byte_does_not_depend_on_the_blocks(block_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("né€👩".encode() + b"\xf0\x9f x")
    with (tmp_path / "a").open("rb") as stream, pytest.raises(DataError, match="byte 0xf0 at offset 10 "):
        list(decoded_blocks(stream, "a", block_bytes=block_bytes))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        texts(tmp_path / "none.txt")
    with pytest.raises(DataError, match="there is no text to read"):
        texts()
    with pytest.raises(DataError, match=r"standard input \(-\) is not available"):
        list(Sources(["-"]))
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "secret.txt").chmod(0)
    if not os.access(tmp_path / "secret.txt", os.R_OK):
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            texts(tmp_path / "secret.txt")


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("zstandard", "a.jsonl.zst")])
def test_a_missing_package_names_the_extra(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(json.dumps({}).encode())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gptwo\[data\]'"):
        texts(tmp_path / name)
