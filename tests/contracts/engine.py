"""What every Engine must do. Inherit EngineContract and say how to begin and how to begin again."""

from __future__ import annotations

import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import DimensionMismatch, EngineError, GenerationUnknown, QueryInvalid
from indexes.fusion import convex
from indexes.model import FOREVER, Allowed, Close, Closing, Describe, Drop, Filter, Hit, Op
from indexes.protocols import Engine
from indexes.rowhash import row_hash
from tests.contracts.engine_oracle import (
    DIMENSIONS,
    GENERATION,
    Oracle,
    ask,
    assert_answers,
    chunk,
    public,
    put,
    unit,
)


def ids(hits: tuple[Hit, ...]) -> set[str]:
    return {hit.chunk_id for hit in hits}


class EngineContract(ABC):
    """Inherited by the tests of each engine."""

    @abstractmethod
    def begin(self, folder: Path) -> Engine:
        """An engine over this folder (or a server that stands for it), as a process would begin it."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        engine = self.begin(tmp_path)
        yield engine
        engine.close()

    # ------------------------------------------------------------ what is found

    def test_an_empty_generation_finds_nothing(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        assert writer.seq == 0
        searcher = engine.pin(GENERATION.id)
        assert searcher.search(ask("word", unit(1))) == ()
        assert list(searcher.scan()) == []
        assert (searcher.snapshot.seq, searcher.snapshot.chunks) == (0, 0)

    def test_what_was_applied_is_found_at_once(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([public("a"), put("a@1", "red fox", "blue whale")], seq=7)
        assert writer.seq == 7
        hits = engine.pin(GENERATION.id).search(ask("fox"))
        assert [(h.chunk_id, h.version_id, h.document_id) for h in hits] == [("a@1.0", "a@1", "a")]
        assert engine.pin(GENERATION.id).snapshot.chunks == 2

    def test_each_leg_can_be_asked_alone(self, engine: Engine) -> None:
        engine.open(GENERATION, writable=True).apply([put("a@1", "red fox", "blue whale")], seq=1)
        searcher = engine.pin(GENERATION.id)
        (lexical,) = searcher.search(ask("whale"))
        assert lexical.dense is None
        assert lexical.lexical is not None
        assert lexical.lexical.rank == 1
        dense = searcher.search(ask(vector=chunk("a@1", 0, "red fox").vector))
        assert [h.chunk_id for h in dense] == ["a@1.0", "a@1.1"]
        assert dense[0].dense is not None
        assert dense[0].dense.score == pytest.approx(1.0, abs=1e-5)
        assert dense[0].lexical is None

    def test_a_hit_of_one_leg_has_the_score_of_the_other_too(self, engine: Engine) -> None:
        texts = ["fox", "fox fox", "dog", "cat"]
        engine.open(GENERATION, writable=True).apply([put("a@1", *texts)], seq=1)
        hits = engine.pin(GENERATION.id).search(ask("fox", chunk("a@1", 2, "dog").vector, limit=1))
        by_id = {h.chunk_id: h for h in hits}
        assert set(by_id) == {"a@1.1", "a@1.2"}
        dense, lexical = by_id["a@1.1"].dense, by_id["a@1.2"].lexical
        assert dense is not None
        assert dense.rank is None
        expected = float(chunk("a@1", 1, "fox fox").vector @ chunk("a@1", 2, "dog").vector)
        assert dense.score == pytest.approx(expected, abs=1e-5)
        assert lexical is not None
        assert (lexical.score, lexical.rank) == (0.0, None)

    def test_equal_scores_are_ordered_by_chunk_id(self, engine: Engine) -> None:
        vector = unit(3)
        puts: list[Op] = []
        for name in ("c", "a", "d", "b"):
            rows = tuple(dataclasses.replace(chunk(f"{name}@1", n, "same words"), vector=vector) for n in (1, 0))
            puts.append(dataclasses.replace(put(f"{name}@1"), chunks=rows))
        engine.open(GENERATION, writable=True).apply(puts, seq=1)
        for query in (ask("same", limit=5), ask(vector=vector, limit=5), ask("words", vector, limit=5)):
            found = [h.chunk_id for h in engine.pin(GENERATION.id).search(query)]
            assert found == ["a@1.0", "a@1.1", "b@1.0", "b@1.1", "c@1.0"]

    def test_terms_may_hold_anything(self, engine: Engine) -> None:
        strange = ["with space", "tab\tand\nline", "", "(((", "a:b", '"', "\ud800", "x" * 70_000, "東京", "AND", "+-~"]
        rows = tuple(
            dataclasses.replace(chunk("a@1", place, "plain"), terms=(term, "plain"))
            for place, term in enumerate(strange)
        )
        writer = engine.open(GENERATION, writable=True)
        writer.apply([dataclasses.replace(put("a@1"), chunks=rows)], seq=1)
        writer.publish()
        for place, term in enumerate(strange):
            hits = engine.pin(GENERATION.id).search(dataclasses.replace(ask("x"), terms=(term,)))
            assert [h.chunk_id for h in hits] == [f"a@1.{place}"]

    def test_a_version_without_chunks_is_known(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1"), public("a")], seq=1)
        writer.apply([Close("a@1", 5, 2)], seq=2)
        writer.publish()
        assert engine.pin(GENERATION.id).search(ask("word", unit(1))) == ()

    def test_it_describes_its_parts(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "red fox", "blue whale"), put("b@1", "word")], seq=1)
        writer.publish()
        writer.apply([put("a@1", "red fox")], seq=2)
        parts = engine.pin(GENERATION.id).describe()
        assert sum(part.rows for part in parts) == 4
        assert sum(part.live for part in parts) == engine.pin(GENERATION.id).snapshot.chunks == 2
        for part in parts:
            assert part.segment
            assert part.size > 0
            assert part.dense.rows == part.rows
            assert 0.0 <= part.dense.recall_at_10 <= 1.0

    # ------------------------------------------------------------ time

    def test_only_versions_in_force_are_found(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "old word", start=10, end=20), put("a@2", "new word", start=20)], seq=1)
        searcher = engine.pin(GENERATION.id)
        found = {at: ids(searcher.search(ask("word", unit(1), at=at))) for at in (9, 10, 19, 20, FOREVER - 1)}
        assert found == {9: set(), 10: {"a@1.0"}, 19: {"a@1.0"}, 20: {"a@2.0"}, FOREVER - 1: {"a@2.0"}}

    def test_a_version_is_exchanged_in_one_step(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word one", start=0)], seq=1)
        before = engine.pin(GENERATION.id)
        writer.apply([Close("a@1", 50, 2), put("a@2", "word two", start=50, seq=2)], seq=2)
        after = engine.pin(GENERATION.id)
        assert ids(before.search(ask("word"))) == {"a@1.0"}
        assert ids(after.search(ask("word"))) == {"a@2.0"}
        assert ids(after.search(ask("word", at=49))) == {"a@1.0"}

    def test_a_version_that_was_closed_twice_is_replayed_between(self, engine: Engine, tmp_path: Path) -> None:
        """At 40 by entry 3, at 20 by entry 5; published, merged, opened again, and put whole, as a rebuild does."""
        writer = engine.open(GENERATION, writable=True)
        first = put("a@1", "word one", start=10, seq=1)
        writer.apply([first], seq=1)
        writer.apply([Close("a@1", 40, 3), put("a@2", "word two", start=40, seq=3)], seq=3)
        between = ask("word two", unit(2), at=30)
        then = engine.pin(GENERATION.id).search(between)
        writer.publish()
        last: list[Op] = [Close("a@1", 20, 5), put("a@3", "word three", start=20, end=40, seq=5, closed=5)]
        writer.apply(last, seq=5)
        replayed = dataclasses.replace(between, at_seq=3)
        for step in (lambda: None, writer.publish, writer.merge):
            step()
            searcher = engine.pin(GENERATION.id)
            assert searcher.search(replayed) == then
            assert ids(searcher.search(between)) == {"a@3.0"}
            found = {seq: ids(searcher.search(ask("word", at=30, at_seq=seq))) for seq in (1, 2, 3, 4, 5)}
            assert found == {1: {"a@1.0"}, 2: {"a@1.0"}, 3: {"a@1.0"}, 4: {"a@1.0"}, 5: {"a@3.0"}}
            assert searcher.statistics(["word"], at_seq=4).chunks == 1
        rows = sorted(searcher.scan())
        engine.close()
        again = self.begin(tmp_path)
        again.open(GENERATION, writable=True)
        assert again.pin(GENERATION.id).search(replayed) == then
        assert sorted(again.pin(GENERATION.id).scan()) == rows
        other = dataclasses.replace(GENERATION, id="gen_rebuilt")
        whole = dataclasses.replace(first, valid_to=20, closed_seq=5, earlier=(Closing(3, 40),))
        again.open(other, writable=True).apply([whole, put("a@2", "word two", start=40, seq=3), last[1]], seq=5)
        assert again.pin(other.id).search(replayed) == then
        assert sorted(again.pin(other.id).scan()) == rows
        again.close()

    def test_since_when_nothing_began_or_ended(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word", start=10, end=40, seq=1, closed=1), put("b@1", start=90)], seq=1)
        searcher = engine.pin(GENERATION.id)
        assert [searcher.steady_since(at) for at in (10, 39, 40, 89, 90, 10**9)] == [10, 10, 40, 40, 90, 90]
        assert searcher.steady_since(9) < 0
        writer.apply([Close("a@1", 20, 2), Drop("b@1")], seq=2)
        assert [engine.pin(GENERATION.id).steady_since(at) for at in (19, 20, 10**9)] == [10, 20, 20]
        assert searcher.steady_since(95) == 90

    def test_replay_shows_what_was_recorded_then(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word one", start=10, seq=1)], seq=1)
        writer.apply([Close("a@1", 40, 3), put("a@2", "word two", start=40, seq=3)], seq=3)
        writer.apply([Close("a@2", 60, 5)], seq=5)  # deleted
        searcher = engine.pin(GENERATION.id)
        found = {seq: ids(searcher.search(ask("word", unit(2), at=100, at_seq=seq))) for seq in (0, 1, 2, 3, 4, 5)}
        assert found == {0: set(), 1: {"a@1.0"}, 2: {"a@1.0"}, 3: {"a@2.0"}, 4: {"a@2.0"}, 5: set()}
        assert ids(searcher.search(ask("word", at=50, at_seq=5))) == {"a@2.0"}

    def test_now_may_move_between_queries(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put(f"a@{n}", "word", start=10 * n, end=10 * n + 10) for n in range(10)], seq=1)
        searcher = engine.pin(GENERATION.id)
        for at in [5, 6, 95, 10, 9, 55, 54, 60, 0, 100, -1, 5]:
            wanted = {f"a@{at // 10}.0"} if 0 <= at < 100 else set()
            assert ids(searcher.search(ask("word", at=at))) == wanted

    # ------------------------------------------------------------ access and filters

    def test_access_is_applied_before_ranking(self, engine: Engine) -> None:
        ops: list[Op] = [put(f"d{n:02}@1", "word" + " word" * (n % 3)) for n in range(40)]
        ops += [Describe(f"d{n:02}", frozenset({"staff" if n % 20 else "public"}), {}) for n in range(40)]
        engine.open(GENERATION, writable=True).apply(ops, seq=1)
        searcher = engine.pin(GENERATION.id)
        outsider, staff = Allowed.of("guest"), Allowed.of("staff")
        assert ids(searcher.search(ask("word", unit(1), limit=2, allowed=outsider))) == {"d00@1.0", "d20@1.0"}
        assert len(searcher.search(ask("word", limit=50, allowed=staff))) == 40

    def test_a_document_that_nobody_described_is_hidden(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word")], seq=1)
        assert engine.pin(GENERATION.id).search(ask("word", allowed=Allowed.of("staff"))) == ()
        assert len(engine.pin(GENERATION.id).search(ask("word"))) == 1
        writer.apply([Describe("a", frozenset({"staff"}), {})], seq=2)
        assert len(engine.pin(GENERATION.id).search(ask("word", allowed=Allowed.of("staff")))) == 1
        writer.apply([Describe("a", frozenset(), {})], seq=3)
        assert engine.pin(GENERATION.id).search(ask("word", allowed=Allowed.of("staff"))) == ()

    @pytest.mark.parametrize(
        ("where", "wanted"),
        [
            (Filter("eq", "lang", "de"), "bd"),
            (Filter("ne", "lang", "de"), "ac"),
            (Filter("in", "lang", ("de", "en")), "abd"),
            (Filter("nin", "lang", ("de", "en")), "c"),
            (Filter("eq", "tags", "x"), "ab"),
            (Filter("in", "tags", ("y", "q")), "b"),
            (Filter("gt", "year", 2020), "b"),
            (Filter("gte", "year", 2020.0), "ab"),
            (Filter("lt", "year", "3000"), "d"),
            (Filter("exists", "year"), "abd"),
            (Filter("exists", "year", False), "c"),
            (Filter("eq", "year", True), ""),
            (Filter("eq", "missing", 1), ""),
            (Filter("ne", "missing", 1), "abcd"),
            (Filter("and", parts=(Filter("exists", "tags"), Filter("eq", "lang", "en"))), "a"),
            (Filter("or", parts=(Filter("eq", "lang", "en"), Filter("lt", "year", "2021"))), "ad"),
            (Filter("not", parts=(Filter("eq", "lang", "de"),)), "ac"),
        ],
    )
    def test_filters(self, engine: Engine, where: Filter, wanted: str) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put(f"{name}@1", "word") for name in "abcd"], seq=1)
        writer.apply(
            [
                public("a", lang="en", year=2020, tags=("x",)),
                public("b", lang="de", year=2021.5, tags=("x", "y")),
                public("c"),
                public("d", lang="de", year="2020"),
            ],
            seq=2,
        )
        found = ids(engine.pin(GENERATION.id).search(ask("word", unit(1), where=where)))
        assert found == {f"{name}@1.0" for name in wanted}

    def test_a_description_replaces_the_one_before(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word"), public("a", lang="en", year=1)], seq=1)
        writer.apply([public("a", lang="de")], seq=2)
        searcher = engine.pin(GENERATION.id)
        assert searcher.search(ask("word", where=Filter("eq", "lang", "en"))) == ()
        assert searcher.search(ask("word", where=Filter("exists", "year"))) == ()
        assert len(searcher.search(ask("word", where=Filter("eq", "lang", "de")))) == 1

    # ------------------------------------------------------------ changes

    def test_an_older_batch_changes_nothing(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "first word")], seq=5)
        writer.apply([put("a@1", "second word"), put("b@1", "word")], seq=5)
        writer.apply([Drop("a@1")], seq=4)
        assert writer.seq == 5
        assert ids(engine.pin(GENERATION.id).search(ask("word"))) == {"a@1.0"}
        assert len(engine.pin(GENERATION.id).search(ask("first"))) == 1

    def test_putting_again_replaces(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "old word", "old tail")], seq=1)
        writer.publish()
        for seq, text in ((2, "middle word"), (3, "new word")):
            writer.apply([put("a@1", text)], seq=seq)
            searcher = engine.pin(GENERATION.id)
            assert ids(searcher.search(ask("word old tail", unit(1)))) == {"a@1.0"}
            assert searcher.search(ask("old")) == ()
            assert searcher.snapshot.chunks == 1
            assert [row[0] for row in searcher.scan()] == ["a@1.0"]

    def test_a_dropped_version_is_gone_for_every_time(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word"), put("a@2", "word"), public("a", lang="en")], seq=1)
        writer.apply([Drop("a@1"), Drop("unknown")], seq=2)
        searcher = engine.pin(GENERATION.id)
        assert ids(searcher.search(ask("word", unit(1)))) == {"a@2.0"}
        assert ids(searcher.search(ask("word", at_seq=1))) == {"a@2.0"}
        writer.apply([Drop("a@2")], seq=3)
        writer.apply([put("a@3", "word")], seq=4)
        # With its last version a document is forgotten, its access list too.
        assert engine.pin(GENERATION.id).search(ask("word", allowed=Allowed.of("staff"))) == ()

    def test_closing_what_is_not_there_is_nothing(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([Close("a@1", 5, 1)], seq=1)
        writer.apply([put("a@1", "word")], seq=2)
        assert ids(engine.pin(GENERATION.id).search(ask("word"))) == {"a@1.0"}

    def test_a_bad_batch_is_refused_whole(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word")], seq=1)
        wide = dataclasses.replace(chunk("b@1", 0, "word"), vector=unit(1, DIMENSIONS + 1))
        broken = dataclasses.replace(chunk("b@1", 0, "word"), vector=np.full(DIMENSIONS, np.nan, np.float32))
        for row, error in ((wide, DimensionMismatch), (broken, QueryInvalid)):
            with pytest.raises(error, match=r"b@1\.0"):
                writer.apply([Drop("a@1"), put("c@1", "word"), dataclasses.replace(put("b@1"), chunks=(row,))], seq=2)
            assert writer.seq == 1
            assert ids(engine.pin(GENERATION.id).search(ask("word"))) == {"a@1.0"}
        writer.apply([put("c@1", "word")], seq=2)
        assert ids(engine.pin(GENERATION.id).search(ask("word"))) == {"a@1.0", "c@1.0"}

    @pytest.mark.parametrize(
        "query",
        [
            ask(),
            ask("word", limit=0),
            ask(vector=np.full(DIMENSIONS, np.inf, np.float32)),
            ask("word", where=Filter("and")),
            ask("word", where=Filter("eq", "", 1)),
            ask("word", where=Filter("like", "key", 1)),  # type: ignore[arg-type]
        ],
    )
    def test_a_query_without_meaning_is_refused(self, engine: Engine, query: object) -> None:
        engine.open(GENERATION, writable=True)
        with pytest.raises(QueryInvalid):
            engine.pin(GENERATION.id).search(query)  # type: ignore[arg-type]

    def test_a_query_of_another_width_is_refused(self, engine: Engine) -> None:
        engine.open(GENERATION, writable=True)
        with pytest.raises(DimensionMismatch):
            engine.pin(GENERATION.id).search(ask(vector=unit(1, 3)))

    # ------------------------------------------------------------ pins

    def test_a_pin_does_not_change(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put(f"a{n}@1", f"word w{n}") for n in range(20)], seq=1)
        pinned = engine.pin(GENERATION.id)
        query = ask("word w3 w7", unit(5), limit=30)
        before, rows = pinned.search(query), sorted(pinned.scan())
        writer.apply([Close("a3@1", 1, 2), Drop("a7@1"), put("a1@1", "other"), put("b@1", "word")], seq=2)
        writer.publish()
        writer.apply([put(f"c{n}@1", "word w3 w7") for n in range(300)], seq=3)
        writer.publish()
        writer.merge()
        assert pinned.search(query) == before
        assert sorted(pinned.scan()) == rows
        assert pinned.snapshot.seq == 1

    def test_readers_see_whole_batches_while_writes_go_on(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@0", "word 0", "word 0"), put("b@0", "word 0")], seq=1)
        wrong: list[str] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                searcher = engine.pin(GENERATION.id)
                first = searcher.search(ask("word", unit(1), limit=1000))
                marks = {hit.version_id.split("@")[1] for hit in first}
                if len(first) != 3 or len(marks) != 1 or searcher.search(ask("word", unit(1), limit=1000)) != first:
                    wrong.append(f"{len(first)} hits of versions {marks}")

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(1, 60):
            ops = [Close(f"a@{n - 1}", 0, n + 1), Close(f"b@{n - 1}", 0, n + 1)]
            writer.apply([*ops, put(f"a@{n}", f"word {n}", f"word {n}"), put(f"b@{n}", f"word {n}")], seq=n + 1)
            if n % 10 == 0:
                writer.publish()
                writer.merge()
        done.set()
        for reader in readers:
            reader.join()
        assert not wrong, wrong[:3]

    # ------------------------------------------------------------ on disk

    def test_what_was_published_is_there_again(self, engine: Engine, tmp_path: Path) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "red fox", "blue whale"), public("a", lang="en", tags=("x", 2, True))], seq=3)
        writer.apply([put("b@1", "red cat", start=5, end=50, seq=4, closed=4), Close("a@1", 90, 6)], seq=6)
        writer.apply([put("s@1", "red secret"), Describe("s", frozenset({"staff", "boss"}), {})], seq=7)
        snapshot = writer.publish()
        assert (snapshot.seq, snapshot.chunks) == (7, 4)
        queries = [ask("red", unit(1), at=at, at_seq=s, where=w) for at in (20, 100) for s in (None, 3, 6) for w in W]
        queries += [ask("red", unit(1), allowed=Allowed.of(name)) for name in ("staff", "boss", "guest")]
        before = [engine.pin(GENERATION.id).search(query) for query in queries]
        writer.apply([put("c@1", "red and not published")], seq=8)
        engine.close()
        again = self.begin(tmp_path)
        writer = again.open(GENERATION, writable=True)
        assert writer.seq == 7
        assert again.pin(GENERATION.id).snapshot.seq == 7
        assert [again.pin(GENERATION.id).search(query) for query in queries] == before
        assert again.check(GENERATION.id) == ()
        again.close()

    def test_row_hashes_are_those_of_the_chunks(self, engine: Engine, tmp_path: Path) -> None:
        writer = engine.open(GENERATION, writable=True)
        versions = [put(f"a{n}@1", f"b a a w{n}", "", "z") for n in range(3)]
        wanted = sorted((c.id, c.version_id, row_hash(c, v)) for v in versions for c in v.chunks)
        writer.apply(versions, seq=1)
        assert sorted(engine.pin(GENERATION.id).scan()) == wanted
        writer.publish()
        assert sorted(engine.pin(GENERATION.id).scan()) == wanted
        engine.close()
        again = self.begin(tmp_path)
        again.open(GENERATION, writable=True)
        assert sorted(again.pin(GENERATION.id).scan()) == wanted
        again.close()

    def test_ranking_does_not_depend_on_how_rows_are_spread(self, engine: Engine) -> None:
        rng = np.random.default_rng(5)
        texts = [" ".join(f"w{n}" for n in rng.zipf(1.5, rng.integers(3, 30)) if n < 50) for _ in range(300)]
        versions = [put(f"d{n}@1", *texts[n * 3 : n * 3 + 3]) for n in range(100)]
        answers = []
        query = ask("w1 w2 w3 w7 w20", unit(9), limit=25)
        for name, pieces in (("one", 1), ("three", 3), ("seven", 7)):
            generation = dataclasses.replace(GENERATION, id=f"gen_{name}")
            writer = engine.open(generation, writable=True)
            for piece in range(pieces):
                writer.apply([versions[n] for n in range(piece, 100, pieces)], seq=piece + 1)
                if piece + 1 < pieces:
                    writer.publish()
            answers.append(convex(engine.pin(generation.id).search(query)))
        for other in answers[1:]:
            assert [hit.chunk_id for hit, _ in other] == [hit.chunk_id for hit, _ in answers[0]]
            assert [score for _, score in other] == pytest.approx([score for _, score in answers[0]], abs=1e-5)

    def test_statistics_count_what_is_open_or_was(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "red fox fox", "red", seq=1), put("b@1", "blue", seq=1)], seq=1)
        writer.publish()
        writer.apply([Close("a@1", 50, 2), put("a@2", "red fox", seq=2), put("b@1", "blue blue", seq=2)], seq=2)
        writer.apply([Drop("b@1"), put("c@1", "fox", end=90, seq=3, closed=3)], seq=3)
        searcher = engine.pin(GENERATION.id)
        asked = ["fox", "red", "blue", "unknown", "fox"]
        now = searcher.statistics(asked)
        assert (now.chunks, now.length, now.df) == (1, 2, {"fox": 1, "red": 1, "blue": 0, "unknown": 0})
        then = searcher.statistics(asked, at_seq=1)
        assert (then.chunks, then.length, then.df) == (2, 4, {"fox": 1, "red": 2, "blue": 0, "unknown": 0})

    def test_statistics_from_outside_make_generations_comparable(self, engine: Engine) -> None:
        """Two collections searched with the sum of their statistics score like one that holds both."""
        parts = [[put("a@1", "red fox", "red red dog")], [put("b@1", "fox fox bird cat", "cat", "bird")]]
        names = ["gen_left", "gen_right", "gen_both"]
        for name, ops in zip(names, [*parts, parts[0] + parts[1]], strict=True):
            engine.open(dataclasses.replace(GENERATION, id=name), writable=True).apply(ops, seq=1)
        left, right, both = (engine.pin(name) for name in names)
        query = ask("fox red cat unknown")
        total = left.statistics(query.terms) + right.statistics(query.terms)
        assert total == both.statistics(query.terms)
        shared = dataclasses.replace(query, statistics=total)
        apart = {h.chunk_id: h.lexical.score for part in (left, right) for h in part.search(shared) if h.lexical}
        assert apart == {h.chunk_id: h.lexical.score for h in both.search(query) if h.lexical}
        assert apart != {h.chunk_id: h.lexical.score for p in (left, right) for h in p.search(query) if h.lexical}

    def test_publishing_twice_is_one_snapshot(self, engine: Engine) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word")], seq=1)
        assert writer.publish() == writer.publish()

    def test_merging_joins_small_segments_and_keeps_every_answer(self, engine: Engine, tmp_path: Path) -> None:
        writer = engine.open(GENERATION, writable=True)
        oracle = Oracle()
        for n in range(6):
            ops: list[Op] = [put(f"a{n}@1", f"word w{n}", "tail"), Close(f"a{n - 1}@1", 10, n), public(f"a{n}", n=n)]
            writer.apply(ops, seq=n + 1)
            oracle.apply(ops)
            writer.publish()
        before = engine.pin(GENERATION.id)
        assert writer.merge()
        assert not writer.merge()
        after = engine.pin(GENERATION.id)
        assert after.snapshot.segments < before.snapshot.segments
        for query in (ask("word w3 tail", unit(1)), ask("word", unit(2), at=5), ask("tail", at_seq=3)):
            assert after.search(query) == before.search(query)
            assert_answers(after.search(query), query, oracle)
        engine.close()
        again = self.begin(tmp_path)
        again.open(GENERATION, writable=True)
        assert_answers(again.pin(GENERATION.id).search(ask("word", at=5)), ask("word", at=5), oracle)
        again.close()

    # ------------------------------------------------------------ generations

    def test_generations_are_apart(self, engine: Engine) -> None:
        other = dataclasses.replace(GENERATION, id="gen_other", dimensions=3)
        engine.open(GENERATION, writable=True).apply([put("a@1", "word")], seq=1)
        engine.open(other, writable=True)
        assert engine.pin(other.id).search(ask("word")) == ()
        assert engine.open(GENERATION, writable=True).seq == 1

    def test_unknown_generations_are_refused(self, engine: Engine) -> None:
        for name in ("gen_none", "../gen_test", "", "a/b", ".hidden", "x" * 500):
            with pytest.raises(GenerationUnknown):
                engine.pin(name)
            with pytest.raises(GenerationUnknown):
                engine.check(name)

    def test_a_removed_generation_is_gone(self, engine: Engine, tmp_path: Path) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word")], seq=1)
        writer.publish()
        pinned = engine.pin(GENERATION.id)
        engine.remove(GENERATION.id)
        engine.remove(GENERATION.id)
        with pytest.raises(GenerationUnknown):
            engine.pin(GENERATION.id)
        assert len(pinned.search(ask("word", unit(1)))) == 1
        assert engine.open(GENERATION, writable=True).seq == 0

    def test_a_reader_may_not_publish(self, engine: Engine, tmp_path: Path) -> None:
        writer = engine.open(GENERATION, writable=True)
        writer.apply([put("a@1", "word")], seq=1)
        writer.publish()
        other = self.begin(tmp_path)
        reader = other.open(GENERATION, writable=False)
        assert reader.seq == 1
        reader.apply([put("b@1", "word")], seq=2)
        assert len(other.pin(GENERATION.id).search(ask("word"))) == 2
        assert len(engine.pin(GENERATION.id).search(ask("word"))) == 1
        for change in (reader.publish, reader.merge):
            with pytest.raises(EngineError, match="reading"):
                change()
        other.close()


W = (None, Filter("eq", "tags", 2), Filter("eq", "tags", 1), Filter("exists", "lang", False))
