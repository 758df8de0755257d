"""Rows of local files: known by content, read one at a time, refused by the place of what is wrong."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gainrl.errors import UserError
from gainrl.rows import open_file

ROWS = [{"prompt": f"question {n}, 'ä', \ud83d", "x": [n, 1.5, None, {"y": "]},"}]} for n in range(4)]


def read(path):
    return list(open_file(path)[1]())


def lines(rows, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.JSONL", "p.txt", "p"])
def test_the_content_says_what_a_file_is_not_its_name(tmp_path, name):
    path = tmp_path / name
    plain = [{**row, "prompt": row["prompt"][:-1]} for row in ROWS]
    for content, size, rows in (
        (lines(ROWS).encode(), 4, ROWS),
        (b"\xef\xbb\xbf" + lines(ROWS).replace("\n", "\r\n \n").encode(), 4, ROWS),
        (json.dumps(ROWS).encode(), None, ROWS),
        (b" \n" + json.dumps(ROWS, indent=2).encode() + b"\n", None, ROWS),
        (lines(plain, ensure_ascii=False).encode(), 4, plain),
        (json.dumps(plain, ensure_ascii=False).encode("utf-16"), None, plain),
        (gzip.compress(lines(ROWS).encode()), None, ROWS),
        (gzip.compress(json.dumps(ROWS).encode()), None, ROWS),
        (b"", 0, []),
        (b"[ ]", None, []),
    ):
        path.write_bytes(content)
        assert open_file(path)[0] == size
        assert read(path) == rows
    pq.write_table(pa.table({"prompt": ["a", "b"]}), path)
    assert open_file(path)[0] == 2
    assert read(path) == [{"prompt": "a"}, {"prompt": "b"}]


def test_a_long_list_is_read_across_the_pieces_it_is_read_in(tmp_path):
    rows = [{"n": n, "text": "[}," * (n * 7919 % 500), "number": 1.5e300, "large": 10**30} for n in range(3000)]
    rows[1000]["text"] = "long " * 200_000
    path = tmp_path / "p.json"
    path.write_text(json.dumps(rows))
    assert path.stat().st_size > 3_000_000
    assert read(path) == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a": }\n', "line 2: not valid JSON"),
        ('{"a": 1}\n[1]\n', "line 2: an object is wanted, not list"),
        ('[{"a": 1}, {"a": ]', "item 1: not valid JSON"),
        ('[{"a": 1}, 7]', "item 1: an object is wanted, not int"),
        ('[{"a": 1} {"a": 2}]', "expected ',' or ']'"),
        ('[{"a": 1}', "not valid JSON"),
        ('[{"a": 1}] [', "more text after"),
        ("a,b\n1,2\n", "holds neither JSON lines, a JSON list nor Parquet"),
    ],
)
def test_a_mistake_is_named_by_its_place(tmp_path, content, said):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read(path)


def test_other_damage_is_one_sentence_too(tmp_path):
    path = tmp_path / "p.parquet"
    for content in (
        b"PAR1 and nothing more",
        b'{"a": "\xff\xfe"}',
        gzip.compress(b'{"a": 1}\n')[:-9],
        b"\x1f\x8bno gzip",
    ):
        path.write_bytes(content)
        with pytest.raises(UserError):
            read(path)
    for missing in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError, match="give a file of JSON lines"):
            open_file(missing)
