"""A generation is built from the catalogue beside the serving one, goes on where it stopped, and takes over whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexes.analyze import PlainAnalyzer, analyzer_of
from indexes.embedder import HashEmbedder
from indexes.errors import RagsvcError, StorageFailed
from indexes.model import FOREVER
from ingest import reindex
from ingest.chunk import StructureChunker
from ingest.comparison import Comparison, Figures
from ingest.errors import Conflict, GenerationSwitched, ModelChanged, NotFound, ReindexRefused
from ingest.model import Build, Job, Source
from ingest.reindex import Reindexing
from ingest.run import Cancelled, Run
from tests.contracts.ingest_parts import Installation, make_draft

TEXT = "\n\n".join(f"Paragraph {n} of {{0}} says something of its own about matter {n}." for n in range(12))
GOOD, BAD = Figures(0.9, 0.9, 0.8, 0.8), Figures(0.5, 0.6, 0.8, 0.8)


class Counting(HashEmbedder):
    """How many passages it was given, all together."""

    passages = 0

    def encode(self, texts: Any) -> Any:
        type(self).passages += len(texts)
        return super().encode(texts)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def source(app: Installation) -> Source:
    found = app.source()
    for number in range(20):
        app.record(found, make_draft(f"doc{number}", TEXT.format(f"doc{number}")))
    return found


def make(app: Installation, compare: Callable[..., Comparison | None] = lambda *_: None) -> Reindexing:
    Counting.passages = 0
    embedders: dict[str, HashEmbedder] = {}

    def embedder_of(name: str) -> HashEmbedder:
        return embedders.setdefault(name, Counting(int(name.partition(":")[2])))

    def chunker_of(name: str) -> StructureChunker:
        return StructureChunker(int(name.split("-")[1]))

    return Reindexing(app.catalog, app.follower, embedder_of, chunker_of, analyzer_of, compare, writable=True)


def job_of(app: Installation, **wanted: Any) -> Job:
    return app.catalog.jobs.enqueue("reindex", now=app.clock(), payload={"collection": "handbook", **wanted})


def builds(app: Installation) -> dict[str, Build]:
    """By state; there is at most one of each in these tests."""
    return {build.state: build for build in app.catalog.generations.all(app.collection.id)}


def serving(app: Installation) -> str:
    return app.catalog.collections.get("handbook").generation_id


def found(app: Installation, words: str, generation_id: str) -> list[str]:
    """URIs of the documents that a generation's index finds for these words, best first."""
    app.generation = app.catalog.collections.generation(generation_id)
    ids = list(dict.fromkeys(hit[2] for hit in app.hits(words)))
    documents = app.catalog.changes.documents(ids)
    return [documents[one].uri for one in ids]


def test_another_chunker_embeds_nothing_and_takes_over(app: Installation, source: Source) -> None:
    old = serving(app)
    reindexing, run = make(app), Run()
    reindexing.reindex(job_of(app, chunker="structure-200-1"), run)
    new = builds(app)["serving"]
    assert new.generation.id == serving(app) != old
    assert new.generation.chunker == "structure-200-1"
    assert new.complete_seq == FOREVER
    assert builds(app)["standby"].generation.id == old
    assert builds(app)["standby"].complete_seq == app.catalog.changes.last_seq(app.collection.id)
    assert Counting.passages == run.embedded == 0
    assert run.chunks > 20
    assert app.follower.check(new.generation) == ()
    assert found(app, "doc7 matter", new.generation.id)[0] == "doc7"
    assert new.report is not None
    assert new.report["plan"]["to_embed"] == 0
    assert new.report["plan"]["chunks"] == run.chunks


def test_another_model_embeds_each_sentence_once(app: Installation, source: Source) -> None:
    app.record(source, make_draft("doc3", TEXT.format("doc3") + "\n\nA later version says this too."))
    sentences = {s for n in range(20) for s in TEXT.format(f"doc{n}").split("\n\n")} | {
        "A later version says this too."
    }
    reindexing, run = make(app), Run()
    plan = reindexing.plan(
        app.catalog.collections.get("handbook"), reindexing.recipe(app.collection, {"embedder": "hash:32"})
    )
    Counting.passages = 0  # the plan times the model
    reindexing.reindex(job_of(app, embedder="hash:32"), run)
    assert run.embedded == len(sentences) == plan.to_embed
    assert (plan.versions, plan.exact) == (21, True)
    assert serving(app) == builds(app)["serving"].generation.id
    assert builds(app)["serving"].model == "hash:32@1"
    searcher = app.follower.pin(serving(app))
    closed = app.versions(app.document(source, "doc3"))[0]
    assert closed.valid_to is not None
    assert closed.id in {row[1] for row in searcher.scan()}  # `as_of` must find what was in force


def test_the_plan_changes_nothing(app: Installation, source: Source) -> None:
    reindexing = make(app)
    collection = app.catalog.collections.get("handbook")
    plan = reindexing.plan(collection, reindexing.recipe(collection, {"embedder": "hash:32"}))
    assert plan.chunks > 0
    assert plan.bytes > 0
    assert plan.seconds >= 0
    assert list(builds(app)) == ["serving"]
    with pytest.raises(Conflict, match="already"):
        reindexing.plan(collection, reindexing.recipe(collection, {}))


def test_the_plan_of_a_large_collection_is_a_projection(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.recipes._SAMPLE", 5)
    reindexing = make(app)
    plan = reindexing.plan(app.collection, reindexing.recipe(app.collection, {"embedder": "hash:32"}))
    assert (plan.versions, plan.exact) == (20, False)
    assert plan.to_embed == pytest.approx(20 * 12, rel=0.2)


@pytest.mark.parametrize("part", [{"embedder": "hash:32"}, {"chunker": "structure-300-1"}])
def test_a_stopped_job_goes_on_where_it_was(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch, part: dict[str, str]
) -> None:
    monkeypatch.setattr(reindex, "_ENTRIES", 8)
    app.record(source, make_draft("empty", ""))  # a version without chunks must not be done for ever
    whole = Run()
    reindexing = make(app)
    batches = 0
    fill = Reindexing._fill_part

    def stopping(self: Reindexing, build: Build, *more: Any) -> Build:
        nonlocal batches
        batches += 1
        if batches == 3:
            more[-1].stopping = True
        return fill(self, build, *more)

    monkeypatch.setattr(Reindexing, "_fill_part", stopping)
    with pytest.raises(Cancelled):
        reindexing.reindex(job_of(app, **part), whole)
    half = builds(app)["building"]
    assert 0 < half.complete_seq < app.catalog.changes.last_seq(app.collection.id)
    assert serving(app) != half.generation.id
    chunks, embedded = whole.chunks, whole.embedded
    rest = Run()
    reindexing.reindex(job_of(app, **part), rest)
    assert serving(app) == half.generation.id
    assert (batches > 3, rest.chunks > 0, chunks > 0) == (True, True, True)
    held = sum(1 for _ in app.follower.pin(half.generation.id).scan())
    assert held == chunks + rest.chunks
    if "embedder" in part:
        assert embedded + rest.embedded == 20 * 12


def test_what_comes_while_it_is_built_is_there_at_the_switch(app: Installation, source: Source) -> None:
    """Also what comes between the last look and the switch: nothing can be recorded in its transaction."""
    reindexing = make(app)
    fill, late = Reindexing._fill, list[str]()

    class Slow(Reindexing):
        def _fill(self, build: Build, run: Run) -> None:
            fill(self, build, run)
            late.append(f"late{len(late)}")
            app.record(source, make_draft(late[-1], TEXT.format(late[-1])))

    slow = Slow(**{name: getattr(reindexing, name) for name in Reindexing.__slots__})
    slow.reindex(job_of(app, chunker="structure-200-1"), Run())
    assert len(late) >= 2
    for uri in late:
        assert found(app, f"{uri} matter", serving(app))[0] == uri
    assert app.follower.check(app.catalog.collections.generation(serving(app))) == ()


def test_a_gap_that_is_too_large_is_filled_before_the_lock_is_taken(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindex, "_LAST_GAP", 2)
    reindexing = make(app)
    fill, rounds = Reindexing._fill, list[int]()

    class Busy(Reindexing):
        def _fill(self, build: Build, run: Run) -> None:
            fill(self, build, run)
            rounds.append(len(rounds))
            for number in range(10):
                uri = f"busy{len(rounds)}-{number}"
                app.record(source, make_draft(uri, TEXT.format(uri)))

    busy = Busy(**{name: getattr(reindexing, name) for name in Reindexing.__slots__})
    busy.reindex(job_of(app, chunker="structure-200-1"), Run())
    assert len(rounds) > 3  # it doubled what it fills under the lock until that was enough
    assert app.follower.check(app.catalog.collections.generation(serving(app))) == ()


def test_a_run_that_began_before_the_switch_records_nothing_for_the_old_one(app: Installation, source: Source) -> None:
    before = app.generation
    make(app).reindex(job_of(app, chunker="structure-200-1"), Run())
    with pytest.raises(GenerationSwitched) as raised:
        app.catalog.generations.check_serving(before)
    assert raised.value.retryable
    app.catalog.generations.check_serving(app.catalog.collections.generation(serving(app)))


def test_the_old_one_does_not_follow_what_it_has_no_chunks_of(app: Installation, source: Source) -> None:
    old = serving(app)
    reindexing = make(app)
    reindexing.reindex(job_of(app, chunker="structure-200-1"), Run())
    app.generation = app.catalog.collections.generation(serving(app))
    app.chunker = StructureChunker(200)
    app.record(source, make_draft("after", TEXT.format("after")))
    kept = builds(app)["standby"]
    assert app.follower.pin(old).snapshot.seq == kept.complete_seq
    assert found(app, "after matter", old)[0] != "after"
    reindexing.activate(old, Run())
    assert serving(app) == old
    assert found(app, "after matter", old)[0] == "after"
    assert app.follower.check(app.catalog.collections.generation(old)) == ()
    with pytest.raises(NotFound):
        reindexing.activate("gen_none", Run())
    assert reindexing.activate(old, Run()).state == "serving"  # it does already


def test_worse_is_refused_and_kept(app: Installation, source: Source) -> None:
    old = serving(app)
    worse = Comparison("stored", 10, 0, GOOD, BAD, (("q1", 1.0, 0.0),))
    reindexing = make(app, lambda *_: worse)
    with pytest.raises(ReindexRefused, match=r"0\.5000 after 0\.9000") as raised:
        reindexing.reindex(job_of(app, embedder="hash:8"), Run())
    refused = builds(app)["standby"]
    assert refused.generation.id in raised.value.hint
    assert serving(app) == old
    assert refused.report is not None
    assert refused.report["refused"] is True
    assert refused.report["evaluation"]["worse"] == [{"query": "q1", "old": 1.0, "new": 0.0}]
    embedded = Counting.passages
    run = Run()
    reindexing.reindex(job_of(app, embedder="hash:8", force=True), run)
    assert serving(app) == refused.generation.id
    assert (run.embedded, run.chunks) == (0, 0)  # it was built already
    assert Counting.passages == embedded


@pytest.mark.parametrize(
    ("new", "tolerance", "passes"),
    [
        (replace(GOOD, ndcg_at_10=0.892), None, True),
        (replace(GOOD, ndcg_at_10=0.888), None, False),
        (replace(GOOD, ndcg_at_10=0.85), 0.06, True),
        (replace(GOOD, dense_ndcg_at_10=0.39), None, False),
        (replace(GOOD, lexical_ndcg_at_10=0.39), None, False),
        (replace(GOOD, dense_ndcg_at_10=0.41), None, True),
    ],
)
def test_how_much_worse_is_too_much(
    app: Installation, source: Source, new: Figures, tolerance: float | None, passes: bool
) -> None:
    reindexing = make(app, lambda *_: Comparison("sampled", 10, 0, GOOD, new, ()))
    job = job_of(app, chunker="structure-200-1", **({} if tolerance is None else {"tolerance": tolerance}))
    if passes:
        reindexing.reindex(job, Run())
        assert list(builds(app)) == ["standby", "serving"]
    else:
        with pytest.raises(ReindexRefused):
            reindexing.reindex(job, Run())


def test_only_the_last_one_is_kept(app: Installation, source: Source) -> None:
    first = serving(app)
    reindexing = make(app)
    for target in (200, 300):
        reindexing.reindex(job_of(app, chunker=f"structure-{target}-1"), Run())
    assert [build.generation.chunker for build in app.catalog.generations.all()] == [
        "structure-200-1",
        "structure-300-1",
    ]
    with pytest.raises(NotFound):
        app.catalog.collections.generation(first)
    with pytest.raises(NotFound):
        app.follower.pin(first)
    assert not (app.folder / "indexes" / first).exists()
    assert app.catalog.changes.version_ids(first) == ()
    assert app.catalog.generations.retired() == ()
    again = make(app)
    again.reindex(job_of(app, chunker="structure-700-1"), Run())
    assert serving(app) != first  # an id is never used again


def test_a_half_built_one_is_removed_at_the_next_switch(app: Installation, source: Source) -> None:
    reindexing = make(app)
    half = reindexing._begin(app.collection, reindexing.recipe(app.collection, {"embedder": "hash:8"}))
    reindexing.reindex(job_of(app, chunker="structure-200-1"), Run())
    with pytest.raises(NotFound):
        app.catalog.generations.get(half.generation.id)


def broken(error: RagsvcError) -> Callable[..., None]:
    """Something that fails."""

    def fail(*_: Any) -> None:
        raise error

    return fail


def test_an_error_is_noted_and_a_new_try_goes_on(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    reindexing = make(app)
    with monkeypatch.context() as patch:
        patch.setattr(type(app.catalog.generations), "backfill", broken(RagsvcError("It broke.")))
        with pytest.raises(RagsvcError, match="It broke"):
            reindexing.reindex(job_of(app, chunker="structure-200-1"), Run())
    failed = builds(app)["failed"]
    assert failed.report is not None
    assert failed.report["error"] == "It broke."
    reindexing.reindex(job_of(app, chunker="structure-200-1"), Run())
    assert serving(app) == failed.generation.id
    assert (builds(app)["serving"].report or {})["error"] is None


def test_a_full_disk_is_not_the_generations_fault(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    reindexing = make(app)
    monkeypatch.setattr(type(app.catalog.generations), "backfill", broken(StorageFailed()))
    with pytest.raises(StorageFailed):
        reindexing.reindex(job_of(app, chunker="structure-200-1"), Run())
    assert builds(app)["building"].complete_seq == 0  # neither chunks nor the mark were committed


def test_an_erased_version_leaves_nothing(app: Installation, source: Source) -> None:
    """It may be read for the new generation just before it is erased."""
    reindexing = make(app)
    build = reindexing._begin(app.collection, reindexing.recipe(app.collection, {"embedder": "hash:8"}))
    (version,) = app.versions(app.document(source, "doc1"))
    app.catalog.documents.texts([version.id])
    with app.catalog._db.write() as conn:
        conn.exec_driver_sql("DELETE FROM texts WHERE version_id = ?", (version.id,))
    reindexing._fill(build, Run())
    assert version.id not in app.catalog.changes.version_ids(build.generation.id)
    assert len(app.catalog.changes.version_ids(build.generation.id)) == 19


def test_two_builders_do_not_both_count(app: Installation, source: Source) -> None:
    reindexing = make(app)
    build = reindexing._begin(app.collection, reindexing.recipe(app.collection, {"embedder": "hash:8"}))
    reindexing._fill(build, Run())
    with pytest.raises(Conflict, match="another job"):
        reindexing._fill(build, Run())


def test_another_model_under_the_same_name_is_refused(app: Installation, source: Source) -> None:
    generation = app.generation
    app.catalog.generations.check_model(generation, "hash:256@1", generation.dimensions)  # noted: nothing was known
    app.catalog.generations.check_model(generation, "hash:256@1", generation.dimensions)
    for model, dimensions in (("hash:256@2", generation.dimensions), ("hash:256@1", generation.dimensions + 1)):
        with pytest.raises(ModelChanged, match="hash:256@1"):
            app.catalog.generations.check_model(generation, model, dimensions)


def test_another_analyzer_changes_the_terms_alone(app: Installation, source: Source) -> None:
    app.record(source, make_draft("stroll", "She was walking along the river in the evening."))
    run = Run()
    make(app).reindex(job_of(app, analyzer=PlainAnalyzer.id), run)
    assert run.embedded == 0
    app.generation = app.catalog.collections.generation(serving(app))
    searcher = app.follower.pin(serving(app))
    assert searcher.statistics(["walk"]).df.get("walk", 0) == 0
    assert searcher.statistics(["walking"]).df["walking"] == 1


def test_a_switch_and_an_activation_at_once_leave_one_that_serves(app: Installation, source: Source) -> None:
    reindexing = make(app)
    first = serving(app)
    reindexing.reindex(job_of(app, chunker="structure-200-1"), Run())
    second = serving(app)
    failed: list[BaseException] = []

    def flip(generation_id: str) -> None:
        try:
            for _ in range(5):
                reindexing.activate(generation_id, Run())
        except RagsvcError as error:
            failed.append(error)

    threads = [threading.Thread(target=flip, args=(one,)) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(build.state for build in app.catalog.generations.all()) == ["serving", "standby"]
    assert builds(app)["serving"].generation.id == serving(app)
