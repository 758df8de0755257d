"""JSON arrays an item at a time: what `json.loads` gives, wherever the file is cut; and where it is wrong."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainrl.json_array import NotAnArray, NotJSON, items

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    array=st.lists(values, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    escaped=st.booleans(),
)
def test_items_are_those_of_the_standard_library_however_the_file_is_cut(array, chunk, indent, escaped):
    text = f" {json.dumps(array, indent=indent, ensure_ascii=escaped)}\n "
    assert list(items(io.StringIO(text), chunk)) == array


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_what_only_the_standard_library_reads(chunk):
    text = '[NaN, -Infinity, 123456789012345678901234567890, "\\ud800", {"a": 1, "a": 2}, 12, "x\\u00e9\\\\\\""]'
    assert repr(list(items(io.StringIO(text), chunk))) == repr(json.loads(text))


@pytest.mark.parametrize("chunk", range(1, 8))
def test_a_number_that_was_cut_goes_on(chunk):
    text = "[1.5, 2e5, -1E+3, 4.25e-2, 7, 1]"
    assert list(items(io.StringIO(text), chunk)) == json.loads(text)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[{"a": 1},\n {"a": }]', r"line 2, character 18"),
        ('[{"a": 1}\n {"a": 2}]', r"Expecting ',' delimiter: line 2, character 11"),
        ('[{"a": 1}', r"line 1, character 9"),
        ('[{"a": "x', r"Unterminated string .*line 1, character 7"),
        ("[1,\n\n]", r"line 3, character 5"),
        ("[1] 2", r"Extra data: line 1, character 4"),
        ("", r"Expecting value: line 1, character 0"),
        ("[1, tru]", r"line 1, character 4"),
        ("[1x]", r"Expecting ',' delimiter: line 1, character 2"),
        ("[1.]", r"Expecting ',' delimiter: line 1, character 2"),
    ],
)
def test_where_a_file_stops_being_json(text, where, chunk):
    with pytest.raises(NotJSON, match=where):
        list(items(io.StringIO(text), chunk))


@pytest.mark.parametrize(
    ("text", "kind"), [('{"a": [', "dict"), (' "x"', "str"), ("-3", "number"), ("null", "NoneType")]
)
def test_anything_but_an_array_is_named(text, kind):
    with pytest.raises(NotAnArray, match=f"^{kind}$"):
        list(items(io.StringIO(text)))


def test_an_error_far_from_the_cut_is_found_without_reading_on():
    class Counted(io.StringIO):
        taken = 0

        def read(self, size=-1):
            self.taken += size
            return super().read(size)

    file = Counted('[{"a": 1}, {"a" 1}, ' + '{"a": 1}, ' * 100_000)
    with pytest.raises(NotJSON, match="Expecting ':' delimiter: line 1, character 16"):
        list(items(file, 1000))
    assert file.taken == 1000


def test_memory_is_that_of_a_piece(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("[" + ",".join(f'{{"prompt": "{"x" * 1000}"}}' for _ in range(5000)) + "]")
    tracemalloc.start()
    with open(path, encoding="utf-8") as file:
        assert sum(1 for _ in items(file, 1 << 16)) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
