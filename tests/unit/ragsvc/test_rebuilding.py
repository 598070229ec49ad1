"""What a switch means for a run that is under way, for a model that was exchanged, and for a replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexes.errors import QueryInvalid
from ingest.embed import EmbeddingPass
from ingest.errors import GenerationSwitched, ModelChanged
from ingest.model import Job
from ingest.pipeline import now_utc
from ingest.run import Run
from ragsvc.bootstrap import Service, build
from ragsvc.rebuilding import queue_reindex
from ragsvc.sourcing import NewSource, add_source
from tests.contracts.ingest_parts import write
from tests.contracts.installation import Workshop, settings_in, workshop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path / "data") as made:
        made.push("a.md", "# Notice\n\nThe notice period is four weeks to the end of a month.")
        yield made


def switch(service: Service, target: int) -> None:
    job = queue_reindex(service, "handbook", {"chunker": f"structure-{target}-1"}, actor="test")
    service.reindexing.reindex(job, Run())
    service.catalog.jobs.cancel(job.id, now=now_utc())


def folder_job(service: Service, folder: Path) -> Job:
    for number in range(5):
        write(folder / f"{number}.md", f"# Number {number}\n\nThe word of this one is token{number}.")
    _, job = add_source(service, NewSource("handbook", "files", folder.as_uri(), options={"settle_s": 0}), actor="test")
    return job


def switching(service: Service, patch: pytest.MonkeyPatch, *, times: int) -> None:
    """The next runs find the generation switched between embedding and recording, so many times."""
    embed, targets = EmbeddingPass.embed, list(range(200, 200 + times))

    def slow(self: EmbeddingPass, drafts: Any) -> Any:
        found = embed(self, drafts)
        if targets and any(hasattr(draft, "uri") for draft in drafts):
            switch(service, targets.pop(0))
        return found

    patch.setattr(EmbeddingPass, "embed", slow)


def test_a_sync_under_way_goes_on_for_the_new_generation(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = shop.service
    job = folder_job(service, tmp_path / "docs")
    switching(service, monkeypatch, times=1)
    assert service.ingestion is not None
    run = Run()
    service.ingestion.sync(job, run)
    assert run.counts["new"] == 5
    served = service.catalog.collections.get("handbook").generation_id
    assert service.catalog.collections.generation(served).chunker == "structure-200-1"
    for number in range(5):
        assert shop.ask(f"token{number}").results[0].document.title == f"Number {number}"
    assert all(service.follower.check(generation) == () for generation in service.catalog.collections.generations())


def test_a_run_that_is_switched_again_and_again_is_tried_later(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = shop.service
    job = folder_job(service, tmp_path / "docs")
    switching(service, monkeypatch, times=9)
    assert service.ingestion is not None
    with pytest.raises(GenerationSwitched) as raised:
        service.ingestion.sync(job, Run())
    assert raised.value.retryable


def test_vectors_of_an_exchanged_model_are_not_compared(tmp_path: Path) -> None:
    with workshop(tmp_path / "data") as shop:
        shop.push("a.md", "The notice period is four weeks.")
        assert shop.ask("notice").results
        with shop.service.catalog._db.write() as conn:
            conn.exec_driver_sql("UPDATE generations SET model = 'hash:256@0'")
    with workshop(tmp_path / "data") as shop:
        with pytest.raises(ModelChanged, match="hash:256@0"):
            shop.ask("notice")
        assert shop.ask("notice", mode="lexical").results  # needs no model
        job = folder_job(shop.service, tmp_path / "docs")
        assert shop.service.ingestion is not None
        with pytest.raises(ModelChanged):
            shop.service.ingestion.sync(job, Run())
        renewed = queue_reindex(shop.service, "handbook", {}, actor="test")  # the same name, another model
        shop.service.reindexing.reindex(renewed, Run())
        assert shop.ask("notice").results


def test_a_replay_lasts_as_long_as_its_generation(shop: Workshop) -> None:
    first = shop.ask("notice period")
    switch(shop.service, 200)
    shop.push("b.md", "# Notice\n\nAnother notice period holds in the first weeks.")
    again = shop.ask("notice period", snapshot=first.state.id)
    assert again.state.id == first.state.id
    assert [one.document.uri for one in again.results] == ["a.md"]
    switch(shop.service, 300)
    with pytest.raises(QueryInvalid, match="snapshot"):
        shop.ask("notice period", snapshot=first.state.id)


def test_a_reader_follows_a_switch_at_its_next_question(shop: Workshop) -> None:
    with build(settings_in(shop.service.settings.data), writable=False) as reader:
        other = Workshop(reader, shop.clock)
        before = other.ask("notice period").state.generation
        switch(shop.service, 200)
        shop.push("b.md", "# Parking\n\nParking is free for everyone behind the house.")
        now = other.ask("parking behind the house")
        assert now.state.generation == shop.service.catalog.collections.get("handbook").generation_id != before
        assert now.results[0].document.uri == "b.md"
