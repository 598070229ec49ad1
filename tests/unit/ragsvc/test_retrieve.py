"""Questions against a real catalogue and a real engine: budget, modes, filters, time, access, freshness, tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bpe_openai
import pytest

from indexes.errors import QueryInvalid
from indexes.model import Allowed, Filter
from ingest.catalog.database import to_us
from ingest.errors import NotFound
from ragsvc import views
from ragsvc.answer import Answer
from ragsvc.citations import Resolved, quote_of, resolve, sha256_of
from ragsvc.errors import Stale
from ragsvc.responses import RetrieveResponse
from tests.contracts.installation import EVERYTHING, Workshop, workshop

NOTICE = """# Leaving

## Notice

The notice period is four weeks to the end of a month. In the probation period it is one week.

## Return of things

Laptops, keys and badges are returned on the last working day. The front desk gives a receipt.
"""
HOLIDAYS = """# Holidays

Everyone has thirty days of holiday a year. Holidays are agreed with the team two weeks ahead.

## Carry over

Up to five days may be carried over into March of the next year.
"""
EXPENSES = """# Expenses

Train tickets are paid in full. Hotels are paid up to 120 euros a night.

## Invoices

Invoices are handed in within thirty days. Later invoices need the signature of a director.
"""
QUESTION = "How long is the notice period?"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One installation for all tests that only ask."""
    with workshop(tmp_path_factory.mktemp("retrieve")) as made:
        yield made


def fill(shop: Workshop) -> Workshop:
    for name, text in (("leaving.md", NOTICE), ("holidays.md", HOLIDAYS), ("expenses.md", EXPENSES)):
        shop.push(name, text)
    return shop


@pytest.fixture(scope="module")
def handbook(common: Workshop) -> Workshop:
    """For asking only."""
    return fill(common)


@pytest.fixture
def own(shop: Workshop) -> Workshop:
    """A handbook that a test may change."""
    return fill(shop)


def wire(answer: Answer) -> dict[str, Any]:
    body = views.answer(answer, explain=True, dropped=True)
    RetrieveResponse.model_validate(body)
    return json.loads(json.dumps(body))


def texts(answer: Answer) -> list[str]:
    return [result.passage.text for result in answer.results]


def gist(answer: Answer) -> list[tuple[str, str, float]]:
    """What of two answers must be equal for them to be the same answer."""
    return [(result.id, result.passage.text, round(result.fused, 6)) for result in answer.results]


def tokens(text: str, name: str = "o200k_base") -> int:
    return len(bpe_openai.get_encoding(name).encode_ordinary(text))


def test_an_answer_is_the_best_passage_with_everything_about_it(handbook: Workshop) -> None:
    answer = handbook.ask(QUESTION)
    best = answer.results[0]
    assert "notice period is four weeks" in best.passage.text
    assert best.document.uri == "leaving.md"
    assert best.document.title == "Leaving"
    assert best.collection == "handbook"
    assert best.location.heading_path == ("Leaving", "Notice")
    assert best.version.ordinal == 1
    assert best.is_current
    assert best.freshness.status == "fresh"
    assert best.quote_sha256 == sha256_of(best.passage.text)
    assert answer.context.startswith("[1] Leaving > Notice (v1, 2026-03-01)\n")
    assert [result.passage.ref for result in answer.results] == list(range(1, len(answer.results) + 1))
    for result in answer.results:
        assert result.passage.text in answer.context
    assert set(answer.timings_ms) == {"pin", "embed", "search", "assemble", "total"}
    assert answer.state.seq == handbook.service.catalog.changes.last_seq(best.document.collection_id)
    assert wire(answer)["snapshot"]["id"].startswith("snap_")


def test_every_citation_is_exactly_the_versions_characters(handbook: Workshop) -> None:
    for compression in ("sentences", "none"):
        for result in handbook.ask("days holiday notice invoices", compression=compression).results:
            text = handbook.text(result.version.id)
            assert quote_of(text, result.passage.spans) == result.passage.text
            found = resolve(handbook.service.catalog.documents, result.id, allowed=EVERYTHING)
            assert isinstance(found, Resolved)
            assert found.quote == result.passage.text


@pytest.mark.parametrize("budget", [1, 5, 20, 40, 80, 200, 1024])
@pytest.mark.parametrize("compression", ["sentences", "none"])
@pytest.mark.parametrize("tokenizer", ["o200k_base", "cl100k_base"])
def test_the_context_keeps_its_budget(handbook: Workshop, budget: int, compression: str, tokenizer: str) -> None:
    answer = handbook.ask("notice holiday invoices", max_tokens=budget, compression=compression, tokenizer=tokenizer)
    assert tokens(answer.context, tokenizer) == answer.usage.context_tokens <= budget
    assert answer.usage.tokenizer == tokenizer
    if budget == 1:
        assert answer.context == ""
        assert answer.results == ()
    if budget == 1024:
        assert answer.results


def test_top_k_is_a_ceiling(handbook: Workshop) -> None:
    wanted = "holiday notice expenses invoices carry over hotels laptops"
    counts = [len(handbook.ask(wanted, top_k=k).results) for k in (1, 2, 3, 100)]
    assert counts[0] == 1
    assert counts[1] == 2
    assert counts == sorted(counts)
    assert counts[3] > 2


def test_an_unknown_tokenizer_is_refused(handbook: Workshop) -> None:
    with pytest.raises(QueryInvalid, match="gpt9"):
        handbook.ask(QUESTION, tokenizer="gpt9")


def test_usage_is_counted_exactly(handbook: Workshop) -> None:
    answer = handbook.ask("notice holiday", top_k=2)
    catalog = handbook.service.catalog
    assert answer.usage.context_tokens == tokens(answer.context)
    everything = handbook.ask("notice holiday", top_k=100, max_tokens=100_000, compression="none")
    assert answer.usage.candidate_tokens == everything.usage.candidate_tokens
    assert answer.usage.baseline_tokens == everything.usage.baseline_tokens
    # Each text is one piece of the baseline: shorter than 1000 characters, fewer than five of them. All were found.
    ranked = list(dict.fromkeys(hit.version.id for hit in found_in_order(handbook, "notice holiday")))
    assert len(ranked) == 3
    assert answer.usage.baseline_tokens == tokens("\n\n".join(catalog.documents.text(one).text for one in ranked))
    assert wire(answer)["usage"]["saved_tokens"] == answer.usage.baseline_tokens - answer.usage.context_tokens


def found_in_order(shop: Workshop, question: str) -> list[Any]:
    """The confirmed hits, best first, as the retriever has them before packing."""
    from ragsvc.answer import Question
    from ragsvc.retrieve import _fuse

    retriever = shop.service.retriever
    asked = Question(question, EVERYTHING, ("handbook",))
    pinned = retriever._pinning.pin(asked, shop.clock())
    embedders = retriever._embedders(asked.mode, pinned)
    vectors = {name: embedder.encode_query(question)[0] for name, embedder in embedders.items()}
    fused = _fuse(asked.mode, retriever._search(asked, pinned, vectors))
    return retriever._confirm(asked, pinned, fused, shop.clock())


def test_the_baseline_is_five_pieces_of_a_thousand_characters(shop: Workshop) -> None:
    paragraphs = [f"Paragraph {n} speaks of apples and of the number {n} at length. " * 8 for n in range(40)]
    shop.push("long.md", "\n\n".join(paragraphs))
    answer = shop.ask("apples number 7", max_tokens=200)
    found = found_in_order(shop, "apples number 7")[:30]
    text = shop.text(found[0].version.id)
    starts = list(dict.fromkeys(one.chunk.draft.span.start // 1000 * 1000 for one in found))[:5]
    assert len(starts) == 5
    assert answer.usage.baseline_tokens == tokens("\n\n".join(text[start : start + 1000] for start in starts))
    spans = [one.chunk.draft.span for one in found]
    assert answer.usage.candidate_tokens == tokens("\n\n".join(text[s.start : s.end] for s in spans))


def test_modes_and_their_scores(handbook: Workshop) -> None:
    hybrid, dense, lexical = (handbook.ask(QUESTION, mode=mode) for mode in ("hybrid", "dense", "lexical"))
    for answer in (hybrid, dense, lexical):
        assert answer.results[0].document.uri == "leaving.md"
    best = hybrid.results[0]
    assert best.hit.dense is not None
    assert best.hit.lexical is not None
    assert (best.hit.dense.rank, best.hit.lexical.rank) == (1, 1)
    assert best.fused == pytest.approx(1.0)
    assert dense.results[0].hit.lexical is None
    assert dense.results[0].fused == dense.results[0].hit.dense.score  # type: ignore[union-attr]
    assert lexical.results[0].hit.dense is None
    assert lexical.results[0].fused == lexical.results[0].hit.lexical.score  # type: ignore[union-attr]
    scores = wire(hybrid)["results"][0]["scores"]
    assert scores["fused"] == wire(hybrid)["results"][0]["score"] == best.fused
    assert scores["rerank"] is None
    assert scores["dense"] == {"rank": 1, "score": best.hit.dense.score}


def test_a_lexical_question_without_a_word_finds_nothing(handbook: Workshop) -> None:
    answer = handbook.ask("?!…", mode="lexical")
    assert answer.results == ()
    assert answer.context == ""
    assert answer.sufficiency.verdict == "none"


@pytest.mark.parametrize(
    "question", ["(" * 8000, "\0", "a:(^ - *", "') OR 1=1 --", "🙂" * 500, "\u202e\u0000x", "٣ 四"]
)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_hostile_questions_are_questions(handbook: Workshop, question: str, mode: str) -> None:
    wire(handbook.ask(question, mode=mode))


def test_nothing_to_the_point_gives_no_context_unless_wanted(handbook: Workshop) -> None:
    off = "zebra quantum chromodynamics"
    answer = handbook.ask(off, return_insufficient=False)
    assert answer.sufficiency.verdict == "none"
    assert (answer.context, answer.results, answer.dropped) == ("", (), ())
    assert answer.usage.context_tokens == 0
    assert handbook.ask(off, return_insufficient=True).sufficiency == answer.sufficiency
    assert handbook.ask(QUESTION, return_insufficient=False).results


def test_min_score_drops_and_says_so(handbook: Workshop) -> None:
    everything = handbook.ask(QUESTION)
    limit = everything.results[0].fused
    answer = handbook.ask(QUESTION, min_score=limit)
    assert {result.fused for result in answer.results} == {limit}
    reasons = [reason for _, reason in answer.dropped]
    assert "threshold" in reasons
    for citation, _ in answer.dropped:
        assert isinstance(resolve(handbook.service.catalog.documents, citation, allowed=EVERYTHING), Resolved)
    assert handbook.ask(QUESTION, min_score=limit + 1).results == ()


def test_what_does_not_fit_is_dropped_for_the_budget(handbook: Workshop) -> None:
    answer = handbook.ask("notice holiday invoices", max_tokens=60, compression="none")
    assert answer.results
    assert "budget" in {reason for _, reason in answer.dropped}
    used = {result.id for result in answer.results}
    assert not used & {citation for citation, _ in answer.dropped}


# ---------------------------------------------------------------- filters

TAGGED: dict[str, dict[str, Any]] = {
    "a": {"team": "people", "year": 2020, "draft": False, "tags": ("x", "y")},
    "b": {"team": "people", "year": 2022, "draft": True, "tags": ("y",)},
    "c": {"team": "sales", "year": 2024.5, "tags": ()},
    "d": {"team": "sales"},
}


@pytest.fixture(scope="module")
def tagged(common: Workshop) -> Workshop:
    for name, metadata in TAGGED.items():
        common.push(f"{name}.md", f"Document {name} about apples.", metadata=metadata, collection="tagged")
    return common


def leaf(op: Any, key: str, value: Any) -> Filter:
    return Filter(op, key, value)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (leaf("eq", "team", "people"), "ab"),
        (leaf("ne", "team", "people"), "cd"),
        (leaf("in", "team", ("sales", "nobody")), "cd"),
        (leaf("nin", "team", ("sales",)), "ab"),
        (leaf("eq", "tags", "y"), "ab"),
        (leaf("in", "tags", ("x",)), "a"),
        (leaf("gt", "year", 2020), "bc"),
        (leaf("gte", "year", 2020), "abc"),
        (leaf("lt", "year", 2022), "a"),
        (leaf("lte", "year", 2022), "ab"),
        (leaf("gt", "year", "2020"), ""),
        (leaf("gt", "team", "people"), "cd"),
        (leaf("eq", "draft", True), "b"),
        (leaf("eq", "draft", 1), ""),
        (leaf("ne", "draft", True), "acd"),
        (leaf("exists", "year", True), "abc"),
        (leaf("exists", "year", False), "d"),
        (leaf("exists", "nothing", True), ""),
        (leaf("eq", "media_type", "text/markdown"), "abcd"),
        (Filter("and", parts=(leaf("eq", "team", "people"), leaf("gt", "year", 2021))), "b"),
        (Filter("or", parts=(leaf("eq", "draft", True), leaf("exists", "year", False))), "bd"),
        (Filter("not", parts=(leaf("eq", "team", "people"),)), "cd"),
        (Filter("and", parts=(Filter("not", parts=(leaf("eq", "tags", "x"),)), leaf("lt", "year", 3000))), "bc"),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
def test_filters(tagged: Workshop, condition: Filter, expected: str, mode: str) -> None:
    answer = tagged.ask("apples", collections=["tagged"], filter=condition, mode=mode, top_k=10)
    assert sorted(result.document.uri[0] for result in answer.results) == list(expected)


def test_a_filter_that_means_nothing_is_refused(tagged: Workshop) -> None:
    with pytest.raises(QueryInvalid):
        tagged.ask("apples", collections=["tagged"], filter=leaf("gt", "draft", True))


# ---------------------------------------------------------------- time


def test_as_of_before_and_after_an_edit_and_a_deletion(shop: Workshop) -> None:
    before = shop.clock()
    shop.clock.on(days=1)
    first = shop.push("kitchen.md", "The kitchen closes at six.")
    during_first = shop.clock()
    shop.clock.on(days=1)
    shop.push("kitchen.md", "The kitchen closes at eight.")
    during_second = shop.clock()
    shop.clock.on(days=1)
    shop.delete(first)
    after = shop.clock()
    shop.clock.on(days=1)

    def at(moment: datetime | None) -> list[str]:
        return texts(shop.ask("When does the kitchen close?", as_of=moment))

    assert at(before) == []
    assert at(during_first) == ["The kitchen closes at six."]
    assert at(during_second) == ["The kitchen closes at eight."]
    assert at(after) == at(None) == []
    old = shop.ask("When does the kitchen close?", as_of=during_first)
    assert old.state.as_of == during_first
    assert old.results[0].version.ordinal == 1
    assert not old.results[0].is_current
    assert old.results[0].freshness.status == "deleted_at_source"


def test_a_superseded_version_says_so(shop: Workshop) -> None:
    shop.push("kitchen.md", "The kitchen closes at six.")
    then = shop.clock()
    shop.clock.on(days=1)
    shop.push("kitchen.md", "The kitchen closes at eight.")
    old = shop.ask("kitchen closes", as_of=then).results[0]
    assert old.freshness.status == "superseded"
    assert not old.is_current
    now = shop.ask("kitchen closes").results[0]
    assert now.freshness.status == "fresh"
    assert now.is_current
    assert now.document.id == old.document.id


def test_a_version_of_the_past_takes_its_place_in_time(shop: Workshop) -> None:
    shop.push("rule.md", "The rule of March.")
    shop.push("rule.md", "The rule of January.", valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    assert texts(shop.ask("rule")) == ["The rule of March."]
    assert texts(shop.ask("rule", as_of=datetime(2026, 2, 1, tzinfo=UTC))) == ["The rule of January."]
    assert texts(shop.ask("rule", as_of=datetime(2025, 12, 31, tzinfo=UTC))) == []
    now = shop.ask("rule")
    assert texts(shop.ask("rule", snapshot=now.state.id)) == ["The rule of March."]


def test_a_version_of_the_future_waits(shop: Workshop) -> None:
    shop.push("rule.md", "The rule of today.")
    shop.push("rule.md", "The rule of tomorrow.", valid_from=shop.clock.now + timedelta(days=1))
    assert texts(shop.ask("rule")) == ["The rule of today."]
    shop.clock.on(days=2)
    assert texts(shop.ask("rule")) == ["The rule of tomorrow."]


def test_a_snapshot_replays_the_answer_after_edits_and_deletions(own: Workshop) -> None:
    first = own.ask(QUESTION)
    own.clock.on(hours=1)
    document = own.push("leaving.md", NOTICE.replace("four weeks", "six weeks"))
    own.push("more.md", "The notice period is the notice period is the notice period.")
    edited = own.ask(QUESTION)
    assert gist(edited) != gist(first)
    own.delete(document)
    for _ in range(2):
        replayed = own.ask(QUESTION, snapshot=first.state.id)
        assert gist(replayed) == gist(first)
        assert replayed.context == first.context
        assert replayed.state.id == first.state.id
        assert replayed.state.seq == first.state.seq
        assert replayed.state.committed_at == first.state.committed_at
        own.service.follower.publish()  # from disk as from memory
    assert gist(own.ask(QUESTION, snapshot=edited.state.id)) == gist(edited)


def test_a_replay_between_two_closings_of_one_version(shop: Workshop) -> None:
    """A version is closed, and then closed again earlier, by one that is put between."""
    shop.push("rule.md", "The rule of the beginning.", valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    shop.push("rule.md", "The rule of February.", valid_from=datetime(2026, 2, 10, tzinfo=UTC))
    january = datetime(2026, 1, 20, tzinfo=UTC)
    between = shop.ask("rule", as_of=january)
    assert texts(between) == ["The rule of the beginning."]
    document = shop.push("rule.md", "The rule of mid January.", valid_from=datetime(2026, 1, 15, tzinfo=UTC))
    assert texts(shop.ask("rule", as_of=january)) == ["The rule of mid January."]
    shop.delete(document)
    for _ in range(2):
        assert gist(shop.ask("rule", as_of=january, snapshot=between.state.id)) == gist(between)
        shop.service.follower.publish()


def test_a_snapshot_names_the_time_only_where_a_version_began_or_ended_since(shop: Workshop) -> None:
    shop.push("rule.md", "The rule of today.")
    shop.push("rule.md", "The rule of tomorrow.", valid_from=shop.clock.now + timedelta(days=1))
    before = shop.ask("rule")
    shop.clock.on(hours=1)
    assert shop.ask("rule").state.id == before.state.id
    shop.clock.on(days=2)
    after = shop.ask("rule")
    assert after.state.seq == before.state.seq
    assert after.state.id.startswith(f"{before.state.id}_")
    shop.push("rule.md", "The rule from now on.")
    for answer, text in ((before, "The rule of today."), (after, "The rule of tomorrow.")):
        replayed = shop.ask("rule", snapshot=answer.state.id)
        assert texts(replayed) == [text]
        assert gist(replayed) == gist(answer)
        assert replayed.state == answer.state
    as_of = shop.ask("rule", as_of=shop.clock() - timedelta(days=10))
    assert as_of.state.id.count("_") == 2  # the question says the time, so the id need not
    assert texts(shop.ask("rule", snapshot=after.state.id, as_of=shop.clock() + timedelta(days=1))) == [
        "The rule of tomorrow."
    ]


def test_the_present_shows_nothing_superseded_when_the_clock_was_set_back(shop: Workshop) -> None:
    shop.push("rule.md", "The old rule.")
    shop.clock.on(hours=2)
    shop.push("rule.md", "The new rule.")
    shop.clock.on(hours=-1)
    assert texts(shop.ask("rule")) == ["The new rule."]
    other = shop.push("other.md", "Another rule.")
    answer = shop.ask("rule")
    assert sorted(texts(answer)) == ["Another rule.", "The new rule."]
    shop.delete(other)
    assert texts(shop.ask("rule")) == ["The new rule."]
    assert gist(shop.ask("rule", snapshot=answer.state.id)) == gist(answer)


def test_a_language_that_came_later_changes_no_replay(shop: Workshop) -> None:
    """The question's terms depend on the languages of the collection: those of then."""
    shop.push("houses.md", "There were many houses of the families in the village that we visited.")
    first = shop.ask("the houses of families", mode="lexical")
    assert first.results
    shop.push("haus.md", "Die Häuser der Familien in unserem Dorf sind sehr alt und werden seit langem gepflegt.")
    assert gist(shop.ask("the houses of families", mode="lexical", snapshot=first.state.id)) == gist(first)
    generation = shop.service.catalog.collections.generation(first.state.generation)
    then = shop.service.retriever.terms("Häusern der Familien", generation, seq=first.state.seq)
    assert then != shop.service.retriever.terms("Häusern der Familien", generation)


def test_a_snapshot_of_nothing_replays_nothing(shop: Workshop) -> None:
    shop.service.ensure_collection("handbook")
    first = shop.ask(QUESTION)
    assert first.results == ()
    shop.push("leaving.md", NOTICE)
    assert shop.ask(QUESTION).results
    replayed = shop.ask(QUESTION, snapshot=first.state.id)
    assert replayed.results == ()
    assert (replayed.state.id, replayed.state.seq) == (first.state.id, 0)


@pytest.mark.parametrize(
    "snapshot",
    ["", "snap_", "snap_x", "snap_x_", "snap_x_1", "x_1", "snap_x_-1", "snap_x_" + "9" * 30, "snap_x_\uff11"],
)
def test_what_is_no_snapshot_of_the_collection(handbook: Workshop, snapshot: str) -> None:
    with pytest.raises(QueryInvalid, match="snapshot"):
        handbook.ask(QUESTION, snapshot=snapshot)


def test_a_snapshot_of_the_future_is_none(handbook: Workshop) -> None:
    state = handbook.ask(QUESTION).state
    ahead = state.id.replace(f"_{state.seq}", f"_{state.seq + 1}")
    with pytest.raises(QueryInvalid, match="not a snapshot"):
        handbook.ask(QUESTION, snapshot=ahead)


# ---------------------------------------------------------------- access

SECRETS = {"ann": "xylophone4711", "bob": "zeppelin0815"}


@pytest.fixture(scope="module")
def private(common: Workshop) -> Workshop:
    for name, secret in SECRETS.items():
        for number in range(3):
            common.push(
                f"{name}-{number}.md",
                f"# Salary {secret}\n\nThe salary of {name} is {secret} number {number}.",
                access=[f"user:{name}"],
                collection="private",
            )
    common.push("open.md", "The salary is paid at the end of the month.", collection="private")
    return common


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize("compression", ["sentences", "none"])
@pytest.mark.parametrize("budget", [30, 2000])
def test_two_principals_see_only_theirs(private: Workshop, mode: str, compression: str, budget: int) -> None:
    for name, other in (("ann", "bob"), ("bob", "ann")):
        allowed = Allowed.of(f"user:{name}")
        # the question names the other's secret: the best hit of all is the forbidden one
        answer = private.ask(
            f"salary of {other} {SECRETS[other]}",
            collections=["private"],
            allowed=allowed,
            mode=mode,
            compression=compression,
            max_tokens=budget,
            top_k=100,
        )
        body = wire(answer)
        body["query"] = ""
        assert SECRETS[other] not in json.dumps(body)
        for citation, _ in answer.dropped:
            assert isinstance(resolve(private.service.catalog.documents, citation, allowed=allowed), Resolved)
        uris = {result.document.uri for result in answer.results}
        assert uris <= {f"{name}-0.md", f"{name}-1.md", f"{name}-2.md", "open.md"}
        if budget == 2000:
            assert f"{name}-0.md" in uris or mode == "lexical"


def test_what_others_have_changes_nothing_in_an_answer(private: Workshop) -> None:
    """Scores included: hidden documents must not show through idf or normalisation of what is found."""
    stranger = Allowed.of("user:carol")
    before = private.ask("salary month", collections=["private"], allowed=stranger)
    assert [result.document.uri for result in before.results] == ["open.md"]
    assert private.ask("salary", collections=["private"], allowed=Allowed.of()).results[0].document.uri == "open.md"
    assert before.usage.candidate_tokens == tokens("The salary is paid at the end of the month.")
    assert before.dropped == ()


def test_a_citation_of_others_is_not_found(private: Workshop) -> None:
    theirs = private.ask("salary", collections=["private"], allowed=Allowed.of("user:ann")).results[0].id
    with pytest.raises(NotFound):
        resolve(private.service.catalog.documents, theirs, allowed=Allowed.of("user:bob"))


def test_an_access_list_that_changes_counts_at_once(shop: Workshop) -> None:
    shop.push("plan.md", "The plan is secret.", access=["user:ann"])
    ann, bob = Allowed.of("user:ann"), Allowed.of("user:bob")
    assert shop.ask("plan", allowed=ann).results
    assert not shop.ask("plan", allowed=bob).results
    shop.push("plan.md", "The plan is secret.", access=["user:bob"])
    assert not shop.ask("plan", allowed=ann).results
    assert shop.ask("plan", allowed=bob).results


def test_a_document_for_nobody_is_for_the_owner_only(shop: Workshop) -> None:
    shop.push("void.md", "Nobody may read the void.", access=[])
    assert shop.ask("void", allowed=EVERYTHING).results
    assert not shop.ask("void", allowed=Allowed.of()).results


# ---------------------------------------------------------------- freshness


def aged(shop: Workshop, seconds: int, uri: str, text: str) -> None:
    """A document of a source with an SLA of an hour that was verified so long ago."""
    document = shop.push(uri, text)
    shop.clock.on(seconds=seconds)
    shop.service.catalog.sources.update(document.source_id, {"freshness_sla_s": 3600})


def test_max_staleness_flags(shop: Workshop) -> None:
    aged(shop, 600, "a.md", "Apples are red.")
    assert shop.ask("apples").results[0].freshness.status == "fresh"
    assert shop.ask("apples", max_staleness_s=900.0).results[0].freshness.status == "fresh"
    assert shop.ask("apples", max_staleness_s=60.0).results[0].freshness.status == "stale"
    shop.clock.on(hours=2)
    assert shop.ask("apples").results[0].freshness.status == "stale"


def test_max_staleness_drops(shop: Workshop) -> None:
    aged(shop, 600, "old.md", "Apples are red.")
    shop.push("new.md", "Apples are green.")
    answer = shop.ask("apples", max_staleness_s=60.0, on_stale="drop")
    assert [result.document.uri for result in answer.results] == ["new.md"]
    assert [reason for _, reason in answer.dropped] == ["stale"]
    assert len(shop.ask("apples", max_staleness_s=900.0, on_stale="drop").results) == 2


def test_max_staleness_refuses(shop: Workshop) -> None:
    aged(shop, 600, "old.md", "Apples are red.")
    with pytest.raises(Stale, match=r"old\.md"):
        shop.ask("apples", max_staleness_s=60.0, on_stale="error")
    assert shop.ask("apples", max_staleness_s=900.0, on_stale="error").results


def test_what_is_under_the_least_score_refuses_nothing(shop: Workshop) -> None:
    aged(shop, 600, "old.md", "Pears and some apples.")
    shop.push("new.md", "Apples, apples, apples.")
    best = shop.ask("apples").results[0]
    assert best.document.uri == "new.md"
    answer = shop.ask("apples", max_staleness_s=60.0, on_stale="error", min_score=best.fused)
    assert [result.document.uri for result in answer.results] == ["new.md"]


def test_a_source_that_failed_gives_unverified_passages(shop: Workshop) -> None:
    document = shop.push("a.md", "Apples are red.")
    shop.service.catalog.sources.ran(
        document.source_id, now=shop.clock(), complete=False, withheld=0, error="unreachable"
    )
    assert shop.ask("apples").results[0].freshness.status == "unverified"


# ---------------------------------------------------------------- collections


def test_an_empty_collection_and_no_collection(shop: Workshop) -> None:
    shop.service.ensure_collection("empty")
    for collections in (["empty"], []):
        answer = shop.ask(QUESTION, collections=collections)
        assert (answer.context, answer.results, answer.state.seq) == ("", (), 0)
        assert answer.sufficiency.verdict == "none"
        assert answer.usage.baseline_tokens == 0
        wire(answer)
    with pytest.raises(NotFound, match="nothing"):
        shop.ask(QUESTION, collections=["nothing"])


def test_several_collections_answer_together(own: Workshop) -> None:
    own.push("dogs.md", "Dogs are welcome in the office on Fridays.", collection="pets")
    assert not any("Dogs" in text for text in texts(own.ask("dogs office")))
    answer = own.ask("notice period dogs office", collections=["handbook", "pets"], top_k=20)
    assert {result.collection for result in answer.results} == {"handbook", "pets"}
    assert answer.state.id.count("_") == 3  # snap_GEN_SEQ.GEN_SEQ
    assert answer.state.seq == own.service.catalog.changes.last_seq()
    own.push("dogs.md", "Dogs are not welcome any more.", collection="pets")
    replayed = own.ask(
        "notice period dogs office", collections=["handbook", "pets"], top_k=20, snapshot=answer.state.id
    )
    assert gist(replayed) == gist(answer)


def test_collections_of_two_models_answer_together(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        shop.push("a.md", "Apples are red.", collection="one")
        shop.service.settings = shop.service.settings.model_copy(update={"embedder": "hash:64"})
        shop.push("b.md", "Apples are green.", collection="two")
        generations = {g.embedder for g in shop.service.catalog.collections.generations()}
        assert generations == {"hash:256", "hash:64"}
        answer = shop.ask("apples", collections=["one", "two"])
        assert {result.collection for result in answer.results} == {"one", "two"}, answer.dropped
        wire(answer)


def test_the_same_question_is_embedded_once(handbook: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = handbook.service.embedder_of("hash:256")
    calls: list[str] = []
    real: Callable[[str], Any] = embedder.encode_query
    monkeypatch.setattr(type(embedder), "encode_query", lambda _self, text: (calls.append(text), real(text))[1])
    first = handbook.ask("how many days of holiday")
    assert gist(handbook.ask("how many days of holiday")) == gist(first)
    handbook.ask("how many days of holiday", mode="lexical")
    assert calls == ["how many days of holiday"]


def test_the_catalogue_has_the_last_word_over_an_index_that_lags(own: Workshop) -> None:
    """The index is not told of a deletion; the catalogue is asked for every hit."""
    best = own.ask(QUESTION).results[0]
    follower = own.service.follower
    searcher = follower.pin(best.document.collection_id and follower._catalog.collections.get("handbook").generation_id)
    own.delete(best.document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(follower), "pin", lambda _self, _id: searcher)
        answer = own.ask(QUESTION)
    assert best.document.id not in {result.document.id for result in answer.results}


def test_an_answer_says_when_its_state_was_made(handbook: Workshop) -> None:
    answer = handbook.ask(QUESTION)
    assert to_us(answer.state.committed_at) == handbook.service.catalog.changes.committed_at(answer.state.seq)
