"""Two generations are asked the same, and the figures are those of the reference implementation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ingest.comparison import Comparison, Figures
from ingest.errors import Conflict, NotFound
from ingest.model import Judged
from ingest.pipeline import now_utc
from ingest.run import Cancelled, Run
from ragsvc.comparing import Comparing, ndcg, recall
from tests.contracts.installation import Workshop, workshop

TOPICS = ("notice", "holiday", "expense", "laptop", "parking")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path) as made:
        for topic in TOPICS:
            body = " ".join(f"The {topic} rule number {n} is written down in this part." for n in range(6))
            made.push(f"{topic}.md", f"# {topic.title()}\n\n{body}")
        yield made


def compare(shop: Workshop, run: Run | None = None) -> Comparison | None:
    """The serving generation against itself."""
    catalog = shop.service.catalog
    collection = catalog.collections.get("handbook")
    generation = catalog.collections.generation(collection.generation_id)
    comparing = shop.service.reindexing.compare
    assert isinstance(comparing, Comparing)
    return comparing(collection, generation, generation, run or Run())


def put(shop: Workshop, *judged: Judged) -> None:
    collection = shop.service.catalog.collections.get("handbook")
    shop.service.catalog.evaluations.put(collection.id, judged, now=now_utc())


@pytest.mark.extras
def test_figures_are_those_of_the_reference() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    rng = random.Random(4)
    for _ in range(50):
        names = [f"d{number}" for number in range(30)]
        ranked = rng.sample(names, rng.randint(0, 20))
        relevant = {name: rng.choice([0, 1, 1, 2, 3]) for name in rng.sample(names, rng.randint(1, 15))}
        qrels = [ir_measures.Qrel("q", name, grade) for name, grade in relevant.items()]
        run = [ir_measures.ScoredDoc("q", name, float(-rank)) for rank, name in enumerate(ranked)]
        wanted = reference(ir_measures, qrels, run)
        assert ndcg(ranked, relevant) == pytest.approx(wanted["nDCG@10"])
        assert recall(ranked, relevant) == pytest.approx(wanted["R@10"])


def reference(ir_measures: object, qrels: list[object], run: list[object]) -> Mapping[str, float]:
    from ir_measures import R, calc_aggregate, nDCG

    figures = calc_aggregate([nDCG @ 10, R @ 10], qrels, run)
    return {str(measure): float(value) for measure, value in figures.items()}


def test_documents_are_named_by_id_uri_or_file_name(shop: Workshop) -> None:
    parking = shop.service.catalog.documents.page(
        collection_id=None, allowed=shop.ask("x").question.allowed, limit=9, after=""
    )[0]
    by_uri = {document.uri: document.id for document in parking}
    put(
        shop,
        Judged("a", "the notice rule", {"notice.md": 1}),
        Judged("b", "the holiday rule", {by_uri["holiday.md"]: 2, "gone.md": 1}),
        Judged("c", "the expense rule", {"expense": 1}),
    )
    collection = shop.service.catalog.collections.get("handbook")
    found, unknown = shop.service.catalog.evaluations.resolved(collection.id)
    assert [dict(one.relevant) for one in found] == [
        {by_uri["notice.md"]: 1},
        {by_uri["holiday.md"]: 2},
        {by_uri["expense.md"]: 1},
    ]
    assert unknown == 1
    result = compare(shop)
    assert result is not None
    assert (result.source, result.queries, result.unknown) == ("stored", 3, 1)
    assert result.old == result.new == Figures(1.0, 1.0, 1.0, 1.0)
    assert result.worse == ()


def test_a_file_name_that_two_documents_have_names_neither(shop: Workshop) -> None:
    shop.push("a/rules.md", "One of two.")
    shop.push("b/rules.md", "The other one.")
    put(shop, Judged("a", "rules", {"rules.md": 1}), Judged("b", "rules", {"a/rules.md": 1}))
    collection = shop.service.catalog.collections.get("handbook")
    found, unknown = shop.service.catalog.evaluations.resolved(collection.id)
    assert [len(one.relevant) for one in found] == [0, 1]
    assert unknown == 1


def test_a_set_that_names_no_document_is_an_error(shop: Workshop) -> None:
    put(shop, Judged("a", "the notice rule", {"gone.md": 1}))
    with pytest.raises(Conflict, match="evaluation set"):
        compare(shop)
    collection = shop.service.catalog.collections.get("handbook")
    shop.service.catalog.evaluations.delete(collection.id)
    with pytest.raises(NotFound):
        shop.service.catalog.evaluations.delete(collection.id)
    result = compare(shop)
    assert result is not None
    assert result.source == "sampled"


def test_without_a_set_sentences_of_the_documents_are_asked(shop: Workshop) -> None:
    collection = shop.service.catalog.collections.get("handbook")
    drawn = shop.service.catalog.evaluations.known_items(collection.id, count=3)
    assert drawn == shop.service.catalog.evaluations.known_items(collection.id, count=3)
    assert len(drawn) == 3
    for one in drawn:
        (document_id,) = one.relevant
        version_id = shop.service.catalog.changes.documents([document_id])[document_id].current_version_id
        assert version_id is not None
        assert one.text in shop.text(version_id)
    result = compare(shop)
    assert result is not None
    assert result.queries == len(TOPICS)
    assert result.old.ndcg_at_10 > 0.9
    shop.delete(shop.service.catalog.documents.get(document_id, allowed=shop.ask("x").question.allowed))
    again = compare(shop)
    assert again is not None
    assert again.queries == len(TOPICS) - 1


def test_an_empty_collection_has_nothing_to_ask(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        shop.service.ensure_collection("handbook")
        assert compare(shop) is None


def test_a_comparison_can_be_stopped(shop: Workshop) -> None:
    with pytest.raises(Cancelled):
        compare(shop, Run(stopping=True))


def test_a_report_names_a_lost_leg() -> None:
    old, new = Figures(1.0, 1.0, 0.9, 1.0), Figures(1.0, 1.0, 0.4, 1.0)
    found = Comparison("sampled", 5, 0, old, new, (("known-1", 1.0, 0.5),))
    assert found.lost_leg == "dense"
    assert found.report()["lost_leg"] == "dense"
    assert found.report()["worse"] == [{"query": "known-1", "old": 1.0, "new": 0.5}]
    assert "dense leg" in found.sentence(0.01)
    assert Comparison("sampled", 5, 0, old, old, ()).lost_leg is None
