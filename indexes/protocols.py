"""The seams of the engine. Five methods at most each (Searcher has a sixth, for `verify`); keyword-only options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from indexes.model import (
    Describe,
    Generation,
    Hit,
    Matrix,
    Op,
    PartReport,
    Problem,
    Query,
    Snapshot,
    TermStatistics,
    Timestamp,
)


@runtime_checkable
class Embedder(Protocol):
    """Text to vectors. Equal text gives equal vectors, whatever else is in the batch."""

    @property
    def id(self) -> str:
        """Name and weights hash: vectors of two embedders compare only when this is equal."""
        ...

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Passages to float32 of shape (len(texts), dimensions), rows of unit length.

        Raises EmbedderError.
        """
        ...

    def encode_query(self, text: str) -> Matrix:
        """A question to float32 of shape (1, dimensions), of unit length."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens the model reads for these texts (after truncation)."""
        ...


class Searcher(Protocol):
    """A pinned snapshot. Nothing that is written later shows in it."""

    @property
    def snapshot(self) -> Snapshot:
        """The state it answers from."""
        ...

    def search(self, query: Query) -> tuple[Hit, ...]:
        """The best `query.limit` chunks of each leg, with the scores of both legs for all of them.

        Raises QueryInvalid when neither vector nor terms are given.
        """
        ...

    def statistics(self, terms: Iterable[str], *, at_seq: int | None = None) -> TermStatistics:
        """How common these terms are in what is in force, or was when `at_seq` was the newest."""
        ...

    def steady_since(self, at: Timestamp) -> Timestamp:
        """Since when what is in force at `at` has been in force: no version begins or ends between the two."""
        ...

    def scan(self) -> Iterator[tuple[str, str, str]]:
        """(chunk id, version id, row hash) of every chunk held, in no order."""
        ...

    def describe(self) -> tuple[PartReport, ...]:
        """The parts it searches: their size, how they search, and their measured recall."""
        ...

    def documents(self) -> Iterator[Describe]:
        """Who may read each document of which a version is held, and its metadata; in no order."""
        ...


class IndexWriter(Protocol):
    """The one writer of a generation."""

    @property
    def seq(self) -> int:
        """The last sequence number that was applied."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was damaged when it was opened, and so was left out."""
        ...

    def apply(self, ops: Sequence[Op], *, seq: int) -> None:
        """Take these changes, idempotently; they are visible to every later pin when it returns."""
        ...

    def publish(self) -> Snapshot:
        """Make what was applied durable: write segments aside, verify, rename."""
        ...

    def merge(self) -> bool:
        """Join small segments into one; False when nothing needed it."""
        ...

    def refresh(self, *, only_if_gone: bool = False) -> bool:
        """For readers: move to a newer published state; then apply the log again from `seq`. False if there is none.

        `only_if_gone`: only where all that it has loaded was deleted, as it was damaged.
        """
        ...


class Engine(Protocol):
    """Where generations are stored and searched."""

    def open(self, generation: Generation, *, writable: bool) -> IndexWriter:
        """Load a generation or begin an empty one."""
        ...

    def pin(self, generation_id: str) -> Searcher:
        """The newest state of a generation. Raises GenerationUnknown."""
        ...

    def check(self, generation_id: str, *, share: float = 1.0) -> tuple[Problem, ...]:
        """Read back every stored byte and compare with the manifests, with this share of one core's time."""
        ...

    def remove(self, generation_id: str) -> None:
        """Forget a generation and delete its files."""
        ...

    def close(self) -> None:
        """Release files and memory."""
        ...
