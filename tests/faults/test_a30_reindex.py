"""A30: another model or chunker comes by a shadow generation, an atomic switch and an instant way back.

Questions and updates go on meanwhile; a generation that answers worse is refused; a kill costs nothing that was done.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from indexes.errors import RagsvcError
from ingest.errors import NotFound, ReindexRefused
from ingest.model import Job, Judged
from ingest.pipeline import now_utc
from ingest.run import Cancelled, Run
from ragsvc.answer import Answer, Question
from ragsvc.app import make_app
from ragsvc.bootstrap import Backstage, Service, build
from ragsvc.rebuilding import queue_reindex
from tests.contracts.installation import EVERYTHING, Workshop, settings_in, until, workshop
from tests.contracts.killable import Killable

DOCUMENTS = 25


def text_of(number: int, state: int) -> str:
    """Sentences that say whose and which they are; the token `marker...` is in no other state of any document."""
    body = " ".join(
        f"Sentence {n} of document number{number} in state{state} has a word of its own." for n in range(14)
    )
    return f"# Document {number}\n\nThis is marker{number}x{state} itself, and it stands here once. {body}"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path) as made:
        for number in range(DOCUMENTS):
            made.push(f"{number}.md", text_of(number, 0))
        yield made


def reindex(service: Service, **wanted: object) -> Run:
    """What a worker does with the job."""
    run = Run()
    service.reindexing.reindex(queue_reindex(service, "handbook", wanted, actor="test"), run)
    for job in service.catalog.jobs.page(limit=10, state="queued")[0]:
        service.catalog.jobs.cancel(job.id, now=now_utc())
    return run


def serving(service: Service) -> str:
    return service.catalog.collections.get("handbook").generation_id


def sound(service: Service) -> None:
    """Every generation holds in each index what the catalogue says, of its own model's width."""
    for build_ in service.catalog.generations.all():
        generation = build_.generation
        assert service.follower.check(generation) == ()
        ids = service.catalog.changes.version_ids(generation.id)
        stored = service.catalog.changes.chunks_of(ids[:50], generation_id=generation.id)
        widths = {len(chunk.vector) for chunks in stored.values() for chunk in chunks}
        assert widths == {generation.dimensions}
        assert build_.model == service.embedder_of(generation.embedder).id


# ---------------------------------------------------------------- under questions and updates


@dataclass
class Traffic:
    """One that pushes and some that ask, until stopped. `state` is what was acknowledged of each document."""

    service: Service
    client: TestClient
    state: dict[int, int]
    stop: threading.Event = field(default_factory=threading.Event)
    wrong: list[str] = field(default_factory=list)
    generations: set[str] = field(default_factory=set)
    asked: int = 0
    pushed: int = 0

    def push(self) -> None:
        rng = random.Random(1)
        for step in itertools.count(1):
            if self.stop.is_set():
                return
            number = rng.randrange(DOCUMENTS + step // 4)
            state = self.state.get(number, -1) + 1
            put = self.client.put(
                f"/v1/documents/handbook/{number}.md",
                content=text_of(number, state),
                headers={"content-type": "text/markdown"},
            )
            if put.status_code not in (200, 201):
                self.wrong.append(f"push: {put.status_code} {put.text}")
            self.state[number] = state
            self.pushed += 1

    def ask(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self.stop.is_set():
            self.ask_for(rng.choice(list(self.state)))

    def ask_for(self, number: int) -> None:
        least = self.state[number]
        try:
            self.check(number, least, self.question(f"marker{number}x{least} document number{number}"))
        except RagsvcError as error:
            self.wrong.append(f"question: {error!r}")
        self.asked += 1

    def question(self, text: str) -> Answer:
        return self.service.retriever.retrieve(Question(text, EVERYTHING, ("handbook",), return_insufficient=True))

    def check(self, number: int, least: int, answer: Answer) -> None:
        """It is found, in the state that was acknowledged or a newer one, once, and from one generation."""
        self.generations.add(answer.state.generation)
        states = {one.version.ordinal for one in answer.results if one.document.uri == f"{number}.md"}
        if len(states) != 1 or min(states) < least + 1:
            self.wrong.append(f"{number}.md: states {states} where {least} was acknowledged")
        chunk_ids = [chunk_id for one in answer.results for chunk_id in one.passage.chunk_ids]
        try:
            self.service.catalog.generations.get(answer.state.generation)
        except NotFound:
            return
        held = self.service.catalog.documents.chunks(chunk_ids, generation_id=answer.state.generation)
        if set(chunk_ids) - set(held):
            self.wrong.append(f"chunks of another generation in an answer from {answer.state.generation}")


def finished(service: Service, job_id: str) -> Job:
    """The job, once it has ended."""

    def look() -> Job | None:
        job = service.catalog.jobs.get(job_id)
        return None if job.state in ("queued", "running") else job

    job = until(look, timeout_s=60)
    assert job is not None
    return job


def storm(folder: Path, *, rounds: int) -> Traffic:
    """Reindex and go back and forth, `rounds` times, while documents are pushed and questions asked."""
    with build(settings_in(folder), writable=True) as service, TestClient(make_app(service)) as client:
        client.base_url = "http://127.0.0.1"
        backstage = Backstage(service)
        backstage.start()
        traffic = Traffic(service, client, {})
        for number in range(DOCUMENTS):
            client.put(f"/v1/documents/handbook/{number}.md", content=text_of(number, 0))
            traffic.state[number] = 0
        judged = [Judged(f"q{n}", f"marker{n}x0 document number{n}", {f"{n}.md": 1}) for n in range(5)]
        service.catalog.evaluations.put(service.catalog.collections.get("handbook").id, judged, now=now_utc())
        threads = [threading.Thread(target=traffic.push)]
        threads += [threading.Thread(target=traffic.ask, args=(seed,)) for seed in range(2)]
        try:
            for thread in threads:
                thread.start()
            recipes = [{"embedder": "hash:128"}, {"chunker": "structure-300-1"}, {"embedder": "hash:256"}]
            for number in range(rounds):
                before = serving(service)
                wish = {**recipes[number % 3], "force": True}
                if number >= 3:
                    wish["chunker"] = f"structure-{300 + 10 * number}-1"
                job = queue_reindex(service, "handbook", wish, actor="test")
                assert finished(service, job.id).state == "succeeded", service.catalog.jobs.get(job.id).error
                assert serving(service) != before
                began = time.perf_counter()
                service.reindexing.activate(before, Run())
                assert time.perf_counter() - began < 5
                assert serving(service) == before
                traffic.ask_for(0)
                new = next(b for b in service.catalog.generations.all() if b.state == "standby")
                service.reindexing.activate(new.generation.id, Run())
                traffic.ask_for(1)
        finally:
            traffic.stop.set()
            for thread in threads:
                thread.join()
            backstage.stop()
        for number in traffic.state:
            traffic.ask_for(number)
        service.reindexing.sweep()
        sound(service)
        assert len(service.catalog.generations.all()) == 2
        return traffic


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.worker._POLL_S", 0.02)


@pytest.mark.acceptance
@pytest.mark.usefixtures("quick")
def test_a30_answers_come_from_one_generation_and_nothing_is_lost(tmp_path: Path) -> None:
    traffic = storm(tmp_path, rounds=2)
    assert traffic.wrong == []
    assert len(traffic.generations) == 3
    assert traffic.asked > 20
    assert traffic.pushed > 5


@pytest.mark.acceptance
@pytest.mark.usefixtures("quick")
def test_a30_many_switches(tmp_path: Path) -> None:
    traffic = storm(tmp_path, rounds=5)
    assert traffic.wrong == []
    assert traffic.asked > 100


@pytest.mark.soak
def test_a30_switches_for_long(tmp_path: Path) -> None:
    assert storm(tmp_path, rounds=60).wrong == []


# ---------------------------------------------------------------- refused, forced, back


def test_a30_a_worse_one_is_refused_and_the_way_back_is_instant(shop: Workshop) -> None:
    service = shop.service
    collection = service.catalog.collections.get("handbook")
    judged = [Judged(f"q{n}", f"number{n} state0", {f"{n}.md": 1}) for n in range(DOCUMENTS)]
    service.catalog.evaluations.put(collection.id, judged, now=now_utc())
    old = serving(service)
    with pytest.raises(ReindexRefused):
        reindex(service, embedder="hash:1")
    assert serving(service) == old
    kept = next(b for b in service.catalog.generations.all() if b.state == "standby")
    assert kept.report is not None
    assert kept.report["evaluation"]["lost_leg"] == "dense"
    for job in service.catalog.jobs.page(limit=10, state="queued")[0]:
        service.catalog.jobs.cancel(job.id, now=now_utc())
    assert reindex(service, embedder="hash:1", force=True).embedded == 0  # it was built already
    assert serving(service) == kept.generation.id
    snapshot = shop.ask("marker7x0").state.id
    began = time.perf_counter()
    service.reindexing.activate(old, Run())
    assert time.perf_counter() - began < 1
    answer = shop.ask("marker7x0")
    assert answer.state.generation == old
    assert answer.results[0].document.uri == "7.md"
    replayed = shop.ask("marker7x0", snapshot=snapshot)
    assert replayed.state.generation == kept.generation.id  # it is kept, so what came from it can be replayed
    sound(service)


def test_a30_a_model_without_sense_is_refused_without_labels(shop: Workshop) -> None:
    with pytest.raises(ReindexRefused, match="sampled"):
        reindex(shop.service, embedder="hash:1")


def test_a30_as_of_reaches_into_the_time_before_the_switch(shop: Workshop) -> None:
    before = shop.clock.now
    shop.clock.on(days=1)
    shop.push("3.md", text_of(3, 1))
    shop.clock.on(days=1)
    reindex(shop.service, embedder="hash:64", chunker="structure-300-1", force=True)
    old = shop.ask("marker3x0 document number3", as_of=before)
    assert "marker3x0" in old.context
    assert "marker3x1" not in old.context
    assert "marker3x1" in shop.ask("marker3x1 document number3").context


# ---------------------------------------------------------------- killed and cancelled


def prepared(folder: Path) -> tuple[int, str]:
    """An installation with a queued reindex: how many sentences it must embed, and its job."""
    with workshop(folder) as shop:
        for number in range(DOCUMENTS):
            shop.push(f"{number}.md", text_of(number, 0))
        service = shop.service
        collection = service.catalog.collections.get("handbook")
        plan = service.reindexing.plan(collection, service.reindexing.recipe(collection, {"embedder": "hash:128"}))
        assert plan.exact
        return plan.to_embed, queue_reindex(service, "handbook", {"embedder": "hash:128"}, actor="test").id


def vectors(folder: Path) -> int:
    with build(settings_in(folder), writable=False) as service, service.catalog._db.read() as conn:
        return int(conn.exec_driver_sql("SELECT count(*) FROM vectors").scalar_one())


def kill_and_resume(folder: Path, root: Path, *, kills: int) -> None:
    to_embed, job = prepared(folder)
    known = vectors(folder)
    rng = random.Random(30)
    with Killable("tests.faults.reindex_worker", root) as worker:
        for _ in range(kills):
            worker.begin(folder=str(folder), job=job)
            assert worker.line() == "batch"
            worker.kill(rng.random() * 0.01)
        assert vectors(folder) - known < to_embed, "it was done before it was killed"
        left = to_embed - (vectors(folder) - known)
        worker.begin(folder=str(folder), job=job)
        lines, status = worker.rest()
    assert status == 0
    assert lines[-1].split()[:2] == ["done", str(left)], "what was recorded is never embedded again"
    assert vectors(folder) == known + to_embed
    with workshop(folder) as shop:
        assert shop.service.catalog.collections.generation(serving(shop.service)).embedder == "hash:128"
        sound(shop.service)
        for number in range(0, DOCUMENTS, 7):
            assert shop.ask(f"marker{number}x0").results[0].document.uri == f"{number}.md"


@pytest.mark.acceptance
def test_a30_killed_in_the_middle_it_goes_on_without_embedding_again(tmp_path: Path, root: Path) -> None:
    kill_and_resume(tmp_path, root, kills=1)


@pytest.mark.acceptance
def test_a30_killed_again_and_again(tmp_path: Path, root: Path) -> None:
    kill_and_resume(tmp_path, root, kills=6)


def test_a30_cancelled_nothing_is_switched(shop: Workshop) -> None:
    service, old = shop.service, serving(shop.service)
    job = queue_reindex(service, "handbook", {"embedder": "hash:128"}, actor="test")
    with pytest.raises(Cancelled):
        service.reindexing.reindex(job, Run(stopping=True))
    assert serving(service) == old
    assert shop.ask("marker5x0").results[0].document.uri == "5.md"
    service.catalog.jobs.cancel(job.id, now=now_utc())
    reindex(service, embedder="hash:128")
    assert serving(service) != old
    sound(service)
