"""Rows in memory: readers keep what they had while rows are added, and a seal takes all of it."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from indexes.memory import FIRST_ROWS, Memory, MemoryPiece, let_go
from tests.contracts.engine_oracle import DIMENSIONS, chunk


def content(piece: MemoryPiece) -> tuple[object, ...]:
    postings = [[part.tolist() for part in piece.posting(term)] for term in ("a", "b", "c", "unknown")]
    return (
        piece.count,
        piece.vectors.tobytes(),
        piece.lengths.tolist(),
        piece.row_version.tolist(),
        piece.homes.tolist(),
        postings,
        [piece.sorted_terms(row) for row in range(piece.count)],
        [piece.terms().row(row) for row in range(piece.count)],
        list(piece.chunk_ids[: piece.count]),
    )


def test_a_piece_stays_as_it_was() -> None:
    memory = Memory(DIMENSIONS)
    pieces = [memory.piece()]
    for number in range(6):
        rows = [chunk(f"v{number}", n, "a b b " + "c " * (n % 3)) for n in range(number * 40)]
        memory.append(rows, version=number, home=number + 10)
        pieces.append(memory.piece())
        before = [content(piece) for piece in pieces]
        memory.append([chunk("later", 0, "a a c")], version=99, home=99)
        assert [content(piece) for piece in pieces] == before
    assert memory.piece().count == sum(number * 40 for number in range(6)) + 6 > 2 * FIRST_ROWS


def test_what_a_piece_says() -> None:
    memory = Memory(DIMENSIONS)
    rows = [chunk("v", 0, "b a b"), chunk("v", 1, ""), chunk("v", 2, "a")]
    memory.append(rows, version=4, home=7)
    piece = memory.piece()
    assert piece.posting("a")[0].tolist() == [0, 2]
    assert piece.posting("b")[1].tolist() == [2]
    assert piece.lengths.tolist() == [3, 0, 1]
    assert piece.chunk_ids == ["v.0", "v.1", "v.2"]
    assert np.array_equal(piece.vectors, np.stack([row.vector for row in rows]))
    assert piece.open_df("a", np.array([True, True, False])) == 1
    assert [piece.terms().row(row) for row in range(3)] == [["a", "b", "b"], [], ["a"]]
    assert (piece.dense, piece.lexical) == (None, None)


def test_a_memory_is_freed_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.memory.FREED", 3)
    memory = Memory(DIMENSIONS)
    memory.append([chunk("v", row, f"every new{row}") for row in range(10)], version=1, home=1)
    piece = memory.piece()
    held = piece.held()
    kept = content(piece)
    lives = [weakref.ref(row.vector) for row in piece.chunks]
    let_go(held)
    assert content(piece) == kept  # who still has it loses nothing
    held = piece.held()
    del piece, memory
    assert sum(life() is not None for life in lives) == 10
    left = []

    class Counting(list[object]):
        def __delitem__(self, part: object) -> None:
            super().__delitem__(part)  # type: ignore[arg-type]
            left.append(sum(life() is not None for life in lives))

    chunks = Counting(held[0])
    del held
    let_go([chunks])
    assert left == [7, 4, 1, 0]


@pytest.mark.parametrize("what", ["posting", "terms"])
def test_reading_while_rows_come(what: str) -> None:
    memory = Memory(DIMENSIONS)
    pieces = [memory.piece()]
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            piece = pieces[-1]
            if what == "posting":
                held = piece.posting("every")[0].tolist()
                if held != list(range(piece.count)):
                    wrong.append(f"{len(held)} of {piece.count}")
            elif len(piece.terms()) != piece.count:
                wrong.append("terms")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1500):
        memory.append([chunk("v", number, f"every new{number}")], version=1, home=1)
        pieces.append(memory.piece())
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
