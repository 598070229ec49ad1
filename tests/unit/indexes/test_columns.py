"""Files of columns: what goes in comes out, texts too, and what is no such file is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes import columns as module
from indexes import durable
from indexes.columns import ALIGNMENT, Columns, ColumnWriter, Packed, TextTable, ends_of, fitting, map_columns, spread

TEXTS = st.lists(st.text(st.characters(), max_size=5), max_size=9)  # lone surrogates are among them


def stored(path: Path, **arrays: np.ndarray) -> Columns:
    with durable.stream(path) as file:
        writer = ColumnWriter(file)
        for name, array in arrays.items():
            assert writer.add(name, [array[:2], array[:0], array[2:]], array.dtype) == len(array)
        writer.add_texts("words", [Packed.of(["a", "bc"]), Packed.of([]), Packed.of(["", "é"])])
        writer.finish()
    return map_columns(path)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    kinds = [np.dtype(name) for name in ("uint8", "uint16", "uint32", "int32", "int64")]
    arrays = {kind.name: np.array([0, 1, np.iinfo(kind).max], kind) for kind in kinds}
    arrays["empty"] = np.zeros(0, np.int32)
    columns = stored(tmp_path / "file", **arrays)
    for name, array in arrays.items():
        found = columns.array(name)
        assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
        assert not len(found) or not found.flags.writeable
        assert found.ctypes.data % ALIGNMENT == 0 or not len(found)
    assert list(columns.texts("words")) == ["a", "bc", "", "é"]
    with pytest.raises(KeyError):
        columns.array("missing")


def test_the_same_from_bytes(tmp_path: Path) -> None:
    stored(tmp_path / "file", numbers=np.arange(5))
    columns = Columns((tmp_path / "file").read_bytes())
    assert columns.array("numbers").tolist() == [0, 1, 2, 3, 4]
    assert columns.texts("words")[1] == "bc"


def test_a_file_that_is_no_file_of_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    stored(path, numbers=np.arange(5))
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        with pytest.raises(ValueError, match=r"column|JSON|decode|Expecting|Extra"):
            Columns(content[:length])
    with pytest.raises(ValueError, match="column"):
        Columns(b"[1]" + (0).to_bytes(8, "little"))
    for directory in ({"x": ["|O8", 0, 1]}, {"x": ["<i8", 0, 9]}, {"x": ["<i8", -64, 1]}, {"x": ["<i8", 8, 1]}):
        with pytest.raises(ValueError, match="column"):
            Columns(bytes(64) + json.dumps(directory).encode() + (64).to_bytes(8, "little"))


@given(TEXTS, st.data())
def test_texts_by_number(texts: list[str], data: st.DataObject) -> None:
    table = TextTable.of(texts)
    assert (len(table), list(table), [table[number] for number in range(len(texts))]) == (len(texts), texts, texts)
    numbers = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5)) if texts else []
    packed = table.take(np.array(numbers, np.int64))
    assert list(TextTable(packed.data, ends_of(packed.sizes))) == [texts[number] for number in numbers]
    for number in (-1, len(texts)):
        with pytest.raises(IndexError):
            table[number]


@given(TEXTS.map(set), st.text(st.characters(), max_size=5))
def test_a_sorted_table_finds_what_it_holds(texts: set[str], other: str) -> None:
    """Python sorts by code points; the bytes are searched in the same order."""
    ordered = sorted(texts)
    table = TextTable.of(ordered)
    assert [table.find(text) for text in ordered] == list(range(len(ordered)))
    assert table.find(other) == (ordered.index(other) if other in texts else None)


def test_iterating_reads_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)
    texts = [str(number) * (number % 4) for number in range(10)]
    assert list(TextTable.of(texts)) == texts


def test_the_smallest_type_that_fits() -> None:
    wanted = {0: "u1", 255: "u1", 256: "u2", 65_536: "u4", 2**32 - 1: "u4", 2**32: "i8"}
    assert {largest: fitting(largest).str[1:] for largest in wanted} == wanted


def test_ranges_are_spread() -> None:
    assert spread(np.array([5, 0, 2], np.uint8), np.array([2, 0, 3], np.uint8)).tolist() == [5, 6, 2, 3, 4]
    assert spread(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
