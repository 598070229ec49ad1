"""The engine's benchmark measures what it says: made data, exact answers under every condition, and its report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import asking, bare, building, collection, corpus, report, vectors
from indexes.embedded import EmbeddedEngine
from indexes.embedder import open_embedder
from indexes.model import DenseReport

ROWS, QUERIES = 3_000, 40
NOWHERE = Path("no-data-sets-here")
"""Then sentences of the handbook are mixed: fewer than ROWS, so that some rows are repeated with noise."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    embedder = open_embedder("hash:384", models_dir=NOWHERE)
    return vectors.make(folder, ROWS, QUERIES, datasets=NOWHERE, embedder=embedder)


@pytest.fixture(scope="module")
def rows(place: Path) -> vectors.Rows:
    return vectors.load_rows(place)


def test_made_rows_are_real_first_and_then_near_ones(rows: vectors.Rows, place: Path) -> None:
    real = vectors.facts(place)["passages"]
    assert real < ROWS == len(rows)
    assert np.linalg.norm(rows.vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert len({vector.tobytes() for vector in np.asarray(rows.vectors)}) == ROWS, "no row is a copy"
    made, base = rows.vectors[real:], rows.vectors[rows.passage[real:]]
    to_own = (made * base).sum(axis=1)
    to_others = made @ np.asarray(rows.vectors[:real]).T
    assert 0.5 < float(np.median(to_own)) < 0.97, "near its passage, and not on it"
    assert float(np.median(to_own)) > float(np.median(to_others)) + 0.2


def test_made_terms_are_shared_with_the_passage_and_grow(rows: vectors.Rows, place: Path) -> None:
    real = vectors.facts(place)["passages"]
    terms = rows.terms(0, ROWS)
    assert [len(one) for one in terms] == np.diff(rows.offsets).tolist()
    own = [len(set(terms[row]) & set(terms[rows.passage[row]])) / len(set(terms[row])) for row in range(real, ROWS)]
    assert 0.4 < float(np.median(own)) < 0.95
    rare = [sum(re.fullmatch(r"rare\d+", term) is not None for term in one) for one in terms]
    assert rare == [0] * real + [vectors.RARE] * (ROWS - real)


def test_what_is_made_is_used_again(place: Path) -> None:
    before = (place / "vectors.npy").stat().st_mtime_ns
    embedder = open_embedder("hash:384", models_dir=NOWHERE)
    assert vectors.make(place.parent, ROWS, QUERIES, datasets=NOWHERE, embedder=embedder) == place
    assert (place / "vectors.npy").stat().st_mtime_ns == before
    (place.parent / "encoded.json").unlink()
    assert (vectors.encoded(["a", "b"], place.parent, embedder) == embedder.encode(["a", "b"])).all()


def test_chunk_ids_lead_back_to_rows() -> None:
    assert [collection.row_of(collection.chunk_id(row)) for row in (0, 7, 10**9)] == [0, 7, 10**9]
    assert len(collection.chunk_id(0)) == len(collection.chunk_id(10**9)) == len("chk_") + 24


def test_engine_and_oracle_see_the_same_rows_under_every_condition(
    rows: vectors.Rows, place: Path, tmp_path: Path
) -> None:
    """Exact search finds all of the exact best: so the masks, written without the engine, are right."""
    built = building.build(tmp_path, rows, publish_rows=1_000)
    assert (built["chunks"], built["bytes"] > 0, built["seconds"] > 0) == (ROWS, True, True)
    assert sum(part["rows"] for part in built["parts"]) == ROWS
    queries = vectors.load_queries(place)
    best = collection.exact(rows, queries, QUERIES)
    engine = EmbeddedEngine(tmp_path)
    engine.open(collection.GENERATION, writable=False)
    asked = asking.Asked(engine.pin("gen_bench"), queries)
    seen = {}
    for condition in collection.conditions(ROWS):
        found, scores = best[condition.name]
        seen[condition.name] = set(found.ravel().tolist())
        figures = asking.under(asked, condition, scores, rows)
        assert (figures["recall_at_10"], figures["full"]) == (1.0, True), condition.name
    assert len({frozenset(rows_seen) for rows_seen in seen.values()}) == len(seen), "each condition sees other rows"
    visible = asking.until_visible(engine, rows, times=3)
    assert 0 < visible["visible_ms"]["p50"] < 1_000
    engine.close()


def test_conditions_select_what_they_are_called() -> None:
    share = {one.name: float(collection.visible(100_000, one).mean()) for one in collection.conditions(100_000)}
    assert share == pytest.approx(
        {"none": 0.9, "filter 10 %": 0.09, "filter 1 %": 0.009, "reader of 80 %": 0.72, "as_of": 0.9, "at_seq": 0.45},
        rel=0.15,
    )


@pytest.mark.parametrize(
    ("like", "least"),
    [
        (DenseReport("flat", ROWS), 1.0),
        (DenseReport("ivf", ROWS, quantization="sq8", lists=30, probe_rows=1_500, refine=2.0), 0.9),
    ],
)
def test_the_bare_pair_is_built_like_the_engine(
    rows: vectors.Rows, place: Path, tmp_path: Path, like: DenseReport, least: float
) -> None:
    assert bare.build(tmp_path, rows, like)["lists"] == like.lists
    pair, queries = bare.Bare(tmp_path, rows), vectors.load_queries(place)
    stored = collection.exact(rows, queries, QUERIES)[collection.STORED]
    found = [pair.dense(vector, 10).tolist() for vector in queries.vectors]
    assert asking.recall(found, stored[1], rows.vectors, queries.vectors) >= least
    terms = queries.terms[0]
    dense, lexical = pair.both(queries.vectors[0], terms, 10)
    assert dense.tolist() == found[0]
    assert len(lexical) == 10
    assert all(set(terms) & set(rows.terms(row, row + 1)[0]) for row in lexical.tolist())
    assert pair.lexical(("never written",), 10).tolist() == []


def test_recall_counts_ties_and_not_more_than_all() -> None:
    unit = np.eye(3, dtype=np.float32)
    best = np.array([[1.0, 0.0]], np.float32)  # the second is one of two that tie
    assert asking.recall([[0, 1]], best, unit, unit[:1], limit=2) == 1.0
    assert asking.recall([[0, 2]], best, unit, unit[:1], limit=2) == 1.0
    assert asking.recall([[1, 2]], best, unit, unit[:1], limit=1) == 0.0
    assert asking.recall([[]], best, unit, unit[:1]) == 0.0


def test_both_sides_are_asked_the_same_in_turn() -> None:
    asked: list[tuple[str, int]] = []
    found = asking.in_turn(lambda n: asked.append(("ours", n)), lambda n: asked.append(("bare", n)), 3)
    assert asked == [("ours", 0), ("bare", 0), ("bare", 1), ("ours", 1), ("ours", 2), ("bare", 2)]
    assert set(found) == {"ours", "bare", "overhead", "overhead_cpu", "cpu_ms"}
    assert len(asking.in_turn(asked.append, asked.append, 2, rounds=3)) == 5  # type: ignore[arg-type]
    del asked[6:]
    clients = asking.many_clients(lambda n: asked.append(("client", n)), 20)
    assert sorted(asked[6:]) == [("client", n) for n in range(20)]
    assert clients["qps"] > 0


def test_passages_of_the_data_sets_are_whole_sentences(shared_data: Path) -> None:
    passages, questions = corpus.distinct_passages(shared_data), corpus.distinct_questions(shared_data)
    assert len(passages) == len(set(passages)) > 20_000
    assert all(corpus.SHORTEST <= len(one) <= corpus.PASSAGE for one in passages)
    assert sum(one.endswith((".", "!", "?")) for one in passages) > 0.7 * len(passages)
    assert len(questions) == len(set(questions)) > 2_000


@pytest.mark.slow
def test_the_command_measures_and_reports(tmp_path: Path, root: Path) -> None:
    out = tmp_path / "figures.json"
    options = [
        "--rows",
        "1000",
        "--queries",
        "10",
        "--rounds",
        "1",
        "--embedder",
        "hash:384",
        "--datasets",
        str(NOWHERE),
    ]
    command = [sys.executable, str(root / "bench" / "engine.py"), *options, "--folder", str(tmp_path / "made")]
    done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, check=True)
    (one,) = json.loads(out.read_text())["sizes"]
    assert one["under"]["filter 10 %"]["recall_at_10"] == one["pair_recall_at_10"] == 1.0
    for line in ("## 1,000 chunks x 384", "hybrid 100 ", "filter 1 % ", "from the catalogue's commit", "reached "):
        assert line in done.stdout


def test_goals_say_what_was_missed() -> None:
    def size(rows: int, p50: float, overhead: float, memory: float) -> dict[str, object]:
        under = {
            name: {"full": name != "filter 1 %", "hybrid": {"ratio": 1.5}} for name in ("filter 10 %", "filter 1 %")
        }
        return {
            "rows": rows,
            "latency": {"hybrid 10": {"one": {"ours": {"p50": p50}, "overhead": overhead}}},
            "restart": {"anonymous_asked": memory * rows},
            "under": under,
        }

    said = report.goals([size(10_000, 1.0, 9.0, 384), size(1_000_000, 4.5, 0.09, 600)])
    assert "reached  1,000,000: p50 overhead over the bare pair: 0.09 (at most 0.10)" in said
    assert "10,000: p50 overhead" not in said.replace("1,000,000", "")
    assert "MISSED   1,000,000: anonymous memory over vector of 384 bytes: 1.56 (at most 1.50)" in said
    assert "MISSED   10,000: filter 1 % did not fill the best ten" in said
    assert "MISSED   hybrid p50 at 1,000,000 over that at 10,000: 4.50 (at most 4.00)" in said
