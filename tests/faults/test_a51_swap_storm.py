"""Questions while documents change and generations are swapped: no error, no mixed answer, nothing missing or twice.

Every document goes through numbered editions, one of four is deleted now and then, and each paragraph says which
edition it is from. A question knows what was acknowledged before it began and what had begun before it ended: only
these editions may answer it, exactly one of them, in both legs, and from one generation.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from indexes.model import Allowed, Filter, Mode, Query
from indexes.protocols import Searcher
from ingest.catalog.database import to_us
from ingest.errors import GenerationSwitched
from ingest.follow import Follower
from ingest.model import Document
from ingest.pipeline import now_utc
from ingest.run import Run
from ragsvc.answer import Question
from ragsvc.retrieve import Retriever
from tests.contracts.installation import Server, Workshop, server, until, workshop

DOCUMENTS, THREADS = 24, 8
EVERYTHING = Allowed.everything()
GONE = -1


def text_of(number: int, edition: int) -> str:
    """Enough for several chunks, cut differently by different chunkers; each sentence says whose it is."""
    line = f"Subject dock{number} has edition{edition} of its story and part {{}} of it goes on for a while."
    return f"# Note {number}\n\n" + "\n\n".join(" ".join(line.format(part) for _ in range(2)) for part in range(3))


def said(text: str) -> set[tuple[int, int]]:
    """The (document, edition) pairs that a text is from."""
    words = text.replace(".", " ").split()
    pairs = zip(words, words[2:], strict=False)
    return {(int(a[4:]), int(b[7:])) for a, b in pairs if a.startswith("dock") and b.startswith("edition")}


@dataclass
class Ledger:
    """What each document went through: editions, and GONE where it was deleted; begun, and acknowledged."""

    begun: list[list[int]] = field(default_factory=lambda: [[] for _ in range(DOCUMENTS)])
    acknowledged: list[int] = field(default_factory=lambda: [0] * DOCUMENTS)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def change(self, number: int, edition: int, work: Callable[[], object]) -> None:
        self.begun[number].append(edition)
        work()
        self.acknowledged[number] = len(self.begun[number])

    @contextmanager
    def question(self, number: int) -> Iterator[list[set[tuple[int, int]]]]:
        """Fill in what each leg or passage said; it is compared with what may be said."""
        known = self.acknowledged[number]
        found: list[set[tuple[int, int]]] = []
        yield found
        may = set(self.begun[number][known - 1 :])
        for one in found:
            editions = {edition for about, edition in one if about == number}
            fits = editions <= may - {GONE} and len(editions) <= 1 and (editions or GONE in may)
            if not fits or {about for about, _ in one} - {number}:
                with self.lock:
                    self.wrong.append(f"document {number}: {sorted(one)}, of {sorted(may)}")
        with self.lock:
            self.asked += 1


class Storm:
    """One installation in this process under load."""

    def __init__(self, shop: Workshop, *, questions: int, updates: int, swaps: int) -> None:
        self.shop, self.service = shop, shop.service
        self.ledger = Ledger()
        self.questions, self.updates, self.swaps = questions, updates, swaps
        self.swapped = 0
        self.updated = 0
        self.written_again = 0
        self.failed: list[BaseException] = []
        self.documents: dict[int, Document] = {}
        self.editions: dict[str, set[tuple[int, int]]] = {}

    def put(self, number: int, edition: int) -> None:
        def work() -> None:
            while True:
                try:
                    self.documents[number] = self.shop.push(f"{number}.md", text, metadata={"number": number})
                    return
                except GenerationSwitched:  # a worker tries again at once, too
                    self.written_again += 1

        text = text_of(number, edition)
        self.ledger.change(number, edition, work)

    def begin(self) -> None:
        for number in range(DOCUMENTS):
            self.put(number, 1)
        self.service.reindexing.reindex(self._job(chunker="structure-300-1"), Run())

    def _job(self, **wanted: Any) -> Any:
        payload = {"collection": "handbook", "force": True, **wanted}
        return self.service.catalog.jobs.enqueue("verify", now=now_utc(), payload=payload)

    def _write(self) -> None:
        chance = random.Random(1)
        for count in range(self.updates):
            number = chance.randrange(DOCUMENTS)
            begun = self.ledger.begun[number]
            if number % 4 == 0 and begun[-1] != GONE and chance.random() < 0.3:
                self.ledger.change(number, GONE, lambda n=number: self.shop.delete(self.documents[n]))  # type: ignore[misc]
            else:
                self.put(number, max(begun) + 1)
            self.updated = count + 1

    def _swap(self) -> None:
        """To the other generation and back, spread over the updates; segments are published and merged as well."""
        catalog = self.service.catalog
        for count in range(self.swaps):
            until(lambda: self.updated >= self.updates * count // self.swaps, timeout_s=120, every_s=0.001)  # noqa: B023
            collection = catalog.collections.get("handbook")
            other = next(
                build.generation.id
                for build in catalog.generations.all(collection.id)
                if build.generation.id != collection.generation_id
            )
            self.service.reindexing.activate(other, Run())
            self.service.follower.publish()
            self.swapped += 1

    def _ask(self, seed: int) -> None:
        chance = random.Random(seed)
        for count in range(self.questions // THREADS):
            number = chance.randrange(DOCUMENTS)
            if count % 10 == 0:
                self._through_retriever(number, chance.choice(("hybrid", "dense", "lexical")))
            else:
                self._through_engine(number)

    def _through_retriever(self, number: int, mode: Mode) -> None:
        only = Filter("eq", "number", number)
        with self.ledger.question(number) as found:
            question = Question(
                f"dock{number}", EVERYTHING, ("handbook",), mode=mode, filter=only, return_insufficient=True
            )
            answer = self.service.retriever.retrieve(question)
            found.append(set().union(*(said(result.passage.text) for result in answer.results)))
        assert len({result.version.id for result in answer.results}) <= 1
        assert "," not in answer.state.generation
        held = self.service.catalog.documents.chunks(
            [result.hit.chunk_id for result in answer.results], generation_id=answer.state.generation
        )
        assert held.keys() == {result.hit.chunk_id for result in answer.results}

    def _through_engine(self, number: int) -> None:
        """Each leg alone on one pinned state: both must find one and the same version, and the catalogue knows it."""
        only = Filter("eq", "number", number)
        with self.ledger.question(number) as found:
            at = to_us(now_utc())
            serving, searcher = self._pin()
            at = max(at, self.service.catalog.changes.committed_at(searcher.snapshot.seq))
            vector = np.full(64, 0.125, np.float32)
            terms = self.service.retriever.terms(f"dock{number}", self.service.follower.generation(serving))
            dense = searcher.search(Query(EVERYTHING, at, 50, vector=vector, filter=only))
            lexical = searcher.search(Query(EVERYTHING, at, 50, terms=terms, filter=only))
            assert {hit.chunk_id for hit in dense} == {hit.chunk_id for hit in lexical}
            for leg in (dense, lexical):
                found.append(set().union(*(self._edition(hit.version_id) for hit in leg)))

    def _pin(self) -> tuple[str, Searcher]:
        while True:
            serving = self.service.catalog.collections.get("handbook").generation_id
            searcher = self.service.follower.pin(serving)
            if self.service.catalog.collections.get("handbook").generation_id == serving:
                return serving, searcher

    def _edition(self, version_id: str) -> set[tuple[int, int]]:
        if version_id not in self.editions:
            self.editions[version_id] = said(self.service.catalog.documents.text(version_id).text)
        return self.editions[version_id]

    def run(self) -> None:
        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    work()
                except BaseException as error:
                    self.failed.append(error)
                    raise

            return run

        work: list[Callable[[], None]] = [self._write, self._swap]
        work += [lambda seed=seed: self._ask(seed) for seed in range(THREADS)]  # type: ignore[misc]
        threads = [threading.Thread(target=guarded(one)) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check(self) -> None:
        assert not self.failed, self.failed
        assert not self.ledger.wrong, (len(self.ledger.wrong), self.ledger.wrong[:5])
        assert self.ledger.asked == self.questions
        assert (self.updated, self.swapped) == (self.updates, self.swaps)
        for generation in self.service.catalog.collections.generations():
            self.service.follower.pin(generation.id)
        serving = self.service.catalog.collections.get("handbook").generation_id
        assert self.service.follower.check(self.service.catalog.collections.generation(serving)) == ()


@contextmanager
def storm(folder: Path, **size: int) -> Iterator[Storm]:
    with workshop(folder, embedder="hash:64") as shop:
        shop.clock = now_utc  # type: ignore[assignment]
        shop.__post_init__()
        made = Storm(shop, **size)
        made.begin()
        yield made


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Storm]:
    with storm(tmp_path, questions=0, updates=0, swaps=0) as found:
        yield found


def ask(made: Storm, number: int) -> set[tuple[int, int]]:
    answer = made.shop.ask(f"dock{number}", filter=Filter("eq", "number", number))
    return set().union(*(said(result.passage.text) for result in answer.results))


def test_an_update_between_pin_and_answer_takes_nothing_away(made: Storm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start may lie before the question's: then the pinned version ended before the question began."""
    search = Retriever._search

    def update(self: Retriever, *rest: Any) -> Any:
        found = search(self, *rest)
        if made.updated == 0:
            made.updated = 1
            made.shop.push("5.md", text_of(5, 2), metadata={"number": 5}, valid_from=begun)
            made.shop.delete(made.documents[6])
        return found

    monkeypatch.setattr(Retriever, "_search", update)
    begun = now_utc()
    assert ask(made, 5) == {(5, 1)}
    assert ask(made, 5) == {(5, 2)}
    assert ask(made, 6) == set()


def test_a_swap_between_name_and_pin_hides_nothing(made: Storm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded after a swap is not in the generation that served before."""
    collection = made.service.catalog.collections.get("handbook")
    builds = made.service.catalog.generations.all(collection.id)
    (other,) = {build.generation.id for build in builds} - {collection.generation_id}
    view = Follower.view

    def swap(self: Follower, generation_id: str) -> Any:
        if made.swapped == 0:
            made.swapped = 1
            made.service.reindexing.activate(other, Run())
            made.put(5, 2)
        return view(self, generation_id)

    monkeypatch.setattr(Follower, "view", swap)
    assert ask(made, 5) == {(5, 2)}
    assert made.service.catalog.collections.get("handbook").generation_id == other


@pytest.mark.slow
def test_a51_swap_storm_short(tmp_path: Path) -> None:
    with storm(tmp_path, questions=800, updates=60, swaps=4) as made:
        made.run()
        made.check()


@pytest.mark.acceptance
def test_a51_swap_storm(tmp_path: Path) -> None:
    with storm(tmp_path, questions=10_000, updates=1_000, swaps=20) as made:
        began, used = time.monotonic(), time.process_time()
        made.run()
        took, used = time.monotonic() - began, time.process_time() - used
        print(f"10,000 questions, 1,000 updates, 20 swaps: {took:.1f} s, {used:.1f} s of processor time")
        made.check()


# ---------------------------------------------------------------- over HTTP: one process that writes, two that answer


class Service:
    """The same through `ragsvc up --workers 2`; a connection stays with the process that took it."""

    def __init__(self, running: Server) -> None:
        self.running = running
        self.ledger = Ledger()
        self.writing, self.asked, self.swapped = True, 0, 0

    def put(self, client: httpx.Client, number: int, edition: int) -> None:
        def work() -> None:
            params = {"metadata": json.dumps({"number": number})}
            response = client.put(
                f"/v1/documents/handbook/{number}.txt", content=text_of(number, edition), params=params
            )
            assert response.status_code in (200, 201), response.text

        self.ledger.change(number, edition, work)

    def write(self, first: int, updates: int) -> None:
        chance = random.Random(first)
        with self.running.client() as client:
            for _ in range(updates):
                number = chance.randrange(first, DOCUMENTS, 2)  # each document has one writer
                begun = self.ledger.begun[number]
                if number % 4 == 0 and begun[-1] != GONE and chance.random() < 0.3:
                    gone = f"/v1/documents/handbook/{number}.txt"
                    self.ledger.change(number, GONE, lambda url=gone: client.delete(url).raise_for_status())  # type: ignore[misc]
                else:
                    self.put(client, number, max(begun) + 1)

    def swap(self, swaps: int) -> None:
        with self.running.client() as client:
            for _ in range(swaps):
                builds = client.get("/v1/generations", params={"collection": "handbook"}).json()["data"]
                other = next(build["id"] for build in builds if build["state"] != "serving")
                response = client.post(f"/v1/generations/{other}/activate")
                assert response.is_success, response.text
                self.swapped += 1
                time.sleep(0.2)

    def ask(self, seed: int) -> None:
        chance = random.Random(seed)
        with self.running.client() as client:
            while self.writing:
                number = chance.randrange(DOCUMENTS)
                filters = {"op": "eq", "key": "number", "value": number}
                body = {"query": f"dock{number}", "filters": filters, "on_insufficient": "return"}
                with self.ledger.question(number) as found:
                    response = client.post("/v1/retrieve", json=body)
                    assert response.status_code == 200, response.text
                    results = response.json()["results"]
                    found.append(set().union(*(said(result["text"]) for result in results)))
                assert len({result["version"]["id"] for result in results}) <= 1


@pytest.mark.acceptance
def test_a51_swap_storm_over_several_processes(tmp_path: Path) -> None:
    with server(tmp_path / "data", "up", "--workers", "2", RAGSVC_EMBEDDER="hash:64") as running:
        made = Service(running)
        with running.client() as client:
            for number in range(DOCUMENTS):
                made.put(client, number, 1)
            wanted = {"kind": "reindex", "collection": "handbook", "chunker": "structure-300-1", "force": True}
            job = client.post("/v1/jobs", json=wanted).json()
            until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded", timeout_s=60)
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(made.ask, seed) for seed in range(4)]
            working = [pool.submit(made.write, 0, 40), pool.submit(made.write, 1, 40), pool.submit(made.swap, 10)]
            wait(working)
            made.writing = False
        for done in (*working, *asking):
            done.result()
        print(f"over HTTP: {made.ledger.asked} questions, 80 updates, {made.swapped} swaps")
        assert not made.ledger.wrong, (len(made.ledger.wrong), made.ledger.wrong[:5])
        assert made.ledger.asked > 100
        assert not [line[-3000:] for line in running.lines if "Traceback" in line]
