"""Everything but the catalogue may be lost: indexes are rebuilt from it, equal, without embedding anything."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest

from indexes.embedder import HashEmbedder
from indexes.fusion import convex
from indexes.model import Allowed, Query
from ingest.catalog.database import to_us
from ingest.pipeline import now_utc
from ragsvc.bootstrap import Service
from tests.contracts.installation import HASH, Workshop, workshop

WORDS = "apple pear plum cherry grape melon granite basalt slate chalk river lake sea pond tea".split()  # noqa: SIM905
QUERIES = 200
Ranking = list[tuple[str, float]]


def fill(shop: Workshop) -> None:
    """120 documents, some of them edited and deleted."""
    rng = random.Random(8)
    documents = []
    for number in range(100):
        sentences = [" ".join(rng.choices(WORDS, k=9)).capitalize() + "." for _ in range(rng.randint(1, 12))]
        text = f"# Number {number}\n\n" + "\n\n".join(sentences)
        documents.append(shop.push(f"{number}.md", text, access=["public"] if number % 5 else ["user:ann"]))
        if number % 10 == 0:
            shop.push(f"{number}.md", text + "\n\nThis was added later.")
        if number % 40 == 0:
            shop.service.follower.publish()  # several segments
    for document in documents[::12]:
        shop.delete(document)


def questions() -> list[str]:
    rng = random.Random(9)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(QUERIES)]


def rankings(service: Service, count: int = QUERIES) -> list[Ranking]:
    """The ten best chunks of each of so many questions, with their scores."""
    collection = service.catalog.collections.get("handbook")
    generation = service.catalog.collections.generation(collection.generation_id)
    embedder = service.embedder_of(HASH)
    at = to_us(now_utc()) + 10**15
    found = []
    for number, question in enumerate(questions()[:count]):
        query = Query(
            allowed=Allowed.everything() if number % 2 else Allowed.of("user:ann"),
            at=at,
            limit=100,
            vector=embedder.encode_query(question)[0],
            terms=service.retriever.terms(question, generation),
        )
        hits = service.follower.pin(collection.generation_id).search(query)
        found.append([(hit.chunk_id, round(score, 9)) for hit, score in convex(hits)[:10]])
    return found


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every passage that is embedded from now on (questions do not count)."""
    texts: list[str] = []
    encode = HashEmbedder.encode

    def counting(self: HashEmbedder, passages: list[str]) -> object:
        texts.extend(passages)
        return encode(self, passages)

    def query(self: HashEmbedder, text: str) -> object:
        return encode(self, [text])

    monkeypatch.setattr(HashEmbedder, "encode", counting)
    monkeypatch.setattr(HashEmbedder, "encode_query", query)
    return texts


def test_a08_all_index_files_deleted(tmp_path: Path, embedded: list[str]) -> None:
    with workshop(tmp_path) as shop:
        fill(shop)
        assert embedded
        before = rankings(shop.service)
        answer = shop.ask("granite river tea")
    assert sum(bool(ranking) for ranking in before) == QUERIES
    embedded.clear()
    assert any(path.is_file() for path in (tmp_path / "indexes").rglob("*"))
    shutil.rmtree(tmp_path / "indexes")
    with workshop(tmp_path) as shop:
        assert rankings(shop.service) == before
        shop.clock.now = answer.results[0].freshness.last_verified_at
        shop.clock.on(days=1)
        again = shop.ask("granite river tea")
        assert [result.id for result in again.results] == [result.id for result in answer.results]
        generation = shop.service.catalog.collections.generations()[0]
        assert shop.service.follower.check(generation) == ()
    with workshop(tmp_path) as shop:  # and from what was written anew
        assert rankings(shop.service) == before
    assert embedded == []


def test_a08_some_index_files_deleted(tmp_path: Path, embedded: list[str]) -> None:
    with workshop(tmp_path) as shop:
        fill(shop)
        before = rankings(shop.service, 40)
    embedded.clear()
    rng = random.Random(7)
    for path in sorted(path for path in (tmp_path / "indexes").rglob("*") if path.is_file()):
        if rng.random() < 0.5:
            path.unlink()
    with workshop(tmp_path) as shop:
        assert rankings(shop.service, 40) == before
    assert embedded == []


def test_a08_the_old_state_serves_while_it_is_rebuilt(tmp_path: Path, embedded: list[str]) -> None:
    with workshop(tmp_path) as shop:
        fill(shop)
        before = rankings(shop.service, 40)
        embedded.clear()
        generation = shop.service.catalog.collections.generations()[0]
        done = threading.Event()

        def rebuild() -> None:
            try:
                for _ in range(3):
                    shop.service.follower.rebuild(generation)
            finally:
                done.set()

        thread = threading.Thread(target=rebuild)
        thread.start()
        rounds = 0
        while not done.is_set() or rounds < 2:
            assert rankings(shop.service, 40) == before
            rounds += 1
        thread.join()
        assert embedded == []
