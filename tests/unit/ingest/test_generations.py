"""The table of generations: what an earlier release left, what serves, what is removed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from indexes.model import FOREVER
from ingest.catalog.catalog import Catalog
from ingest.catalog.database import _MIGRATIONS, Database
from ingest.errors import Conflict, NotFound
from ingest.model import Build, Judged

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    built = {"embedder": "hash:64", "dimensions": 64, "chunker": "c", "analyzer": "a"}
    made.collections.ensure("handbook", now=NOW, **built)  # type: ignore[arg-type]
    yield made
    made.close()


def begin(catalog: Catalog, chunker: str, *, model: str = "hash:64@1") -> Build:
    collection = catalog.collections.get("handbook")
    return catalog.generations.begin(
        collection.id, embedder="hash:64", model=model, dimensions=64, chunker=chunker, analyzer="a", now=NOW
    )


def test_what_an_earlier_release_left_serves(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with database.write() as conn:
        config.attributes["connection"] = conn
        command.upgrade(config, "0001")
        conn.exec_driver_sql("INSERT INTO collections VALUES ('col_1', 'old', '[]', '{}', 'gen_1', 5)")
        conn.exec_driver_sql("INSERT INTO generations VALUES ('gen_1', 'col_1', 'hash:64', 64, 'c', 'a', 7)")
    database.close()
    catalog = Catalog(url)
    build = catalog.generations.get("gen_1")
    assert (build.state, build.complete_seq, build.model, build.report) == ("serving", FOREVER, None, None)
    assert build.activated_at == build.created_at
    assert catalog.collections.complete_seq("gen_1") == FOREVER
    catalog.generations.check_serving(build.generation)
    catalog.close()


def test_a_recipe_is_begun_once(catalog: Catalog) -> None:
    first = begin(catalog, "d")
    assert (first.state, first.complete_seq) == ("building", 0)
    assert begin(catalog, "d") == first
    assert begin(catalog, "d", model="hash:64@2").generation.id != first.generation.id
    with pytest.raises(Conflict, match="already"):
        begin(catalog, "c")


def test_a_switch_moves_the_pointer_and_both_states(catalog: Catalog) -> None:
    before = catalog.collections.get("handbook").generation_id
    new = begin(catalog, "d").generation.id
    switched = catalog.generations.switch(new, now=NOW)
    assert (switched.state, switched.complete_seq, switched.activated_at) == ("serving", FOREVER, NOW)
    assert catalog.collections.get("handbook").generation_id == new
    assert catalog.generations.get(before).state == "standby"
    assert catalog.collections.complete_seq(before) == 0  # nothing was ever recorded
    half = begin(catalog, "e").generation.id
    catalog.generations.switch(before, now=NOW)
    assert catalog.generations.get(half).state == "building"  # another job may be at it
    catalog.generations.switch(new, now=NOW, unfinished=True)
    assert catalog.generations.retired() == (half,)
    with pytest.raises(NotFound):
        catalog.generations.get(half)
    assert not catalog.generations.remove_some(half, versions=10)
    assert catalog.generations.retired() == ()
    assert not catalog.generations.remove_some(new, versions=10)  # it serves: it stays
    assert catalog.generations.get(new).state == "serving"


def test_what_lacks_something_cannot_serve(catalog: Catalog) -> None:
    new = begin(catalog, "d").generation
    with catalog._db.write() as conn:
        conn.exec_driver_sql(
            "INSERT INTO changes (kind, collection_id, document_id, at) VALUES ('describe', ?, 'doc_1', 1)",
            (new.collection_id,),
        )
    with pytest.raises(Conflict, match="lacks documents"):
        catalog.generations.switch(new.id, now=NOW)
    catalog.generations.advance(new.id, before=0, to=catalog.changes.last_seq(new.collection_id))
    catalog.generations.switch(new.id, now=NOW)


def test_notes_add_up(catalog: Catalog) -> None:
    made = begin(catalog, "d").generation.id
    catalog.generations.note(made, report={"plan": 1})
    catalog.generations.note(made, state="failed", report={"error": "It broke."})
    build = catalog.generations.get(made)
    assert (build.state, build.report) == ("failed", {"plan": 1, "error": "It broke."})


def test_an_empty_collection_goes_with_its_generations_and_questions(catalog: Catalog) -> None:
    collection = catalog.collections.get("handbook")
    begin(catalog, "d")
    catalog.evaluations.put(collection.id, [Judged("q1", "why?", {"a.md": 1})], now=NOW)
    assert catalog.evaluations.get(collection.id) == (Judged("q1", "why?", {"a.md": 1}),)
    catalog.collections.delete("handbook")
    assert catalog.generations.all() == ()
    assert catalog.evaluations.get(collection.id) == ()
