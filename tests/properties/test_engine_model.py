"""Any sequence of changes, publishes, merges and restarts answers like a brute-force oracle."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from indexes.embedded import EmbeddedEngine
from indexes.model import FOREVER, Allowed, Close, Closing, Describe, Drop, Filter, Op, Query
from indexes.rowhash import row_hash
from indexes.versions import BEGINNING
from tests.contracts.engine_oracle import GENERATION, Oracle, ask, assert_answers, put, unit

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here is about the disk
WORDS = ("ant", "bee", "cat", "dog", "elk", "fox")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
TIMES = st.integers(0, 6)
ENDS = st.one_of(st.just(FOREVER), TIMES)
VALUES = st.one_of(
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["a", "b", "1", 1.0, 2.5]),
    st.lists(st.sampled_from(["a", "b", 1, True]), max_size=3).map(tuple),
)
SCALARS = VALUES.filter(lambda value: not isinstance(value, tuple))
ORDERED = SCALARS.filter(lambda value: not isinstance(value, bool))
KEYS = st.sampled_from(["k", "m"])
PRINCIPALS = st.frozensets(st.sampled_from(["public", "staff", "boss"]))
DOCUMENTS = st.sampled_from(["d1", "d2", "d3"])
VERSIONS = st.builds("{}@{}".format, DOCUMENTS, st.integers(1, 3))

LEAVES = st.one_of(
    st.builds(Filter, st.sampled_from(["eq", "ne"]), KEYS, SCALARS),
    st.builds(Filter, st.sampled_from(["in", "nin"]), KEYS, st.lists(SCALARS, max_size=2).map(tuple)),
    st.builds(Filter, st.sampled_from(["gt", "gte", "lt", "lte"]), KEYS, ORDERED),
    st.builds(Filter, st.just("exists"), KEYS, st.sampled_from([None, True, False])),
)
FILTERS = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(Filter, st.sampled_from(["and", "or"]), parts=st.lists(parts, min_size=1, max_size=3).map(tuple)),
        st.builds(Filter, st.just("not"), parts=st.tuples(parts)),
    ),
    max_leaves=4,
)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    terms = draw(st.lists(st.sampled_from([*WORDS, "none"]), max_size=4))
    vector = draw(st.one_of(st.none() if terms else st.nothing(), st.integers(0, 20).map(unit)))
    return ask(
        " ".join(terms),
        vector,
        at=draw(TIMES),
        limit=draw(st.sampled_from([1, 2, 5, 50])),
        allowed=draw(st.one_of(st.just(Allowed.everything()), st.builds(Allowed, PRINCIPALS))),
        where=draw(st.one_of(st.none(), FILTERS)),
        at_seq=draw(st.one_of(st.none(), st.integers(0, 20))),
    )


class EngineMachine(RuleBasedStateMachine):
    """Two generations of the truth: what was applied, and what was published."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir=SCRATCH))
        self.engine = EmbeddedEngine(self.folder)
        self.writer = self.engine.open(GENERATION, writable=True)
        self.seq = 0
        self.log: list[tuple[int, list[Op]]] = []
        self.oracle = Oracle()

    def _apply(self, *ops: Op) -> None:
        self.seq += 1
        self.log.append((self.seq, list(ops)))
        self.writer.apply(ops, seq=self.seq)
        self.oracle.apply(ops)

    @rule(version=VERSIONS, texts=st.lists(TEXTS, max_size=3), start=TIMES, ends=st.lists(ENDS, max_size=3))
    def put(self, version: str, texts: list[str], start: int, ends: list[int]) -> None:
        """As it would come from a catalogue: recorded some entries ago, and closed since, perhaps several times."""
        first = max(0, self.seq + 1 - len(ends))
        *earlier, last = [Closing(first + n, end) for n, end in enumerate(ends)] or [Closing(FOREVER, FOREVER)]
        version_put = put(version, *texts, start=start, end=last.valid_to, seq=first, closed=last.seq)
        self._apply(replace(version_put, earlier=tuple(earlier)))

    @rule(version=VERSIONS, successor=VERSIONS, text=TEXTS, at=TIMES)
    def exchange(self, version: str, successor: str, text: str, at: int) -> None:
        seq = self.seq + 1
        self._apply(Close(version, at, seq), put(successor, text, start=at, seq=seq))

    @rule(version=VERSIONS, end=ENDS)
    def close(self, version: str, end: int) -> None:
        self._apply(Close(version, end, self.seq + 1))

    @rule(version=VERSIONS, end=ENDS, back=st.integers(1, 5))
    def close_late(self, version: str, end: int, back: int) -> None:
        """A closing that comes after newer ones were applied."""
        self._apply(Close(version, end, max(0, self.seq - back)))

    @rule(version=VERSIONS)
    def drop(self, version: str) -> None:
        self._apply(Drop(version))

    @rule(document=DOCUMENTS, access=PRINCIPALS, metadata=st.dictionaries(KEYS, VALUES))
    def describe(self, document: str, access: frozenset[str], metadata: dict[str, object]) -> None:
        self._apply(Describe(document, access, metadata))  # type: ignore[arg-type]

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        seq, ops = data.draw(st.sampled_from(self.log))
        self.writer.apply(ops, seq=seq)

    @rule()
    def publish(self) -> None:
        assert self.writer.publish().seq == self.seq

    @rule()
    def merge(self) -> None:
        self.writer.merge()

    @rule()
    def restart(self) -> None:
        self.engine.close()
        self.engine = EmbeddedEngine(self.folder)
        self.writer = self.engine.open(GENERATION, writable=True)
        assert self.writer.problems == ()
        for seq, ops in self.log:
            self.writer.apply(ops, seq=seq)

    @rule(query=queries())
    def search(self, query: Query) -> None:
        searcher = self.engine.pin(GENERATION.id)
        hits = searcher.search(query)
        assert_answers(hits, query, self.oracle)
        assert searcher.search(query) == hits

    @rule(at=TIMES)
    def since_when(self, at: int) -> None:
        """Exactly the last moment up to `at` at which a version begins or ends."""
        past = [moment for moment in self.oracle.boundaries() if moment <= at]
        assert self.engine.pin(GENERATION.id).steady_since(at) == max(past, default=BEGINNING)

    @invariant()
    def holds_what_the_oracle_holds(self) -> None:
        if hasattr(self, "oracle"):
            wanted = sorted(
                (c.id, c.version_id, row_hash(c, v)) for v in self.oracle.versions.values() for c in v.chunks
            )
            searcher = self.engine.pin(GENERATION.id)
            assert sorted(searcher.scan()) == wanted
            assert (searcher.snapshot.seq, searcher.snapshot.chunks) == (self.seq, len(wanted))

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.check(GENERATION.id) == ()
            self.engine.close()
            shutil.rmtree(self.folder)


TestEngineModel = EngineMachine.TestCase
TestEngineModel.settings = settings(max_examples=40, stateful_step_count=30)
