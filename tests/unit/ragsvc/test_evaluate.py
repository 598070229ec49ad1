"""`ragsvc eval`: figures of a tiny data set that were worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import Conflict
from tests.contracts.installation import HASH, ragsvc, settings_in

pytest.importorskip("ir_measures", reason="the extra eval is not installed")
pytestmark = pytest.mark.extras

CORPUS = {
    "d1": ("Apples", "apple apple apple"),
    "d2": ("Fruit", "apple pear plum cherry grape melon"),
    "d3": ("Pears", "pear pear pear"),
    "d/4 ü": ("Stones", "granite basalt slate"),
}
QUERIES = {"q1": "apple", "q2": "pear", "q3": "granite", "q4": "unjudged apple"}
# q1: d1 before d2 (apple three times in a short text); the judge wants d2: reciprocal rank 1/2.
# q2: d3 before d2; wanted d3 (2) and d2 (1): the ideal order. q3: one document, found first.
QRELS = [("q1", "d2", 1), ("q2", "d3", 2), ("q2", "d2", 1), ("q3", "d/4 ü", 1)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": key, "title": title, "text": text} for key, (title, text) in CORPUS.items()]
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    for name, entries in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in entries))
    rows = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in QRELS)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def evaluated(dataset: Path, data: Path) -> dict[str, Any]:
    from ragsvc.evaluate import evaluate

    return evaluate(dataset, settings_in(data), say=None)


def test_figures_are_those_worked_out_by_hand(dataset: Path, tmp_path: Path) -> None:
    figures = evaluated(dataset, tmp_path / "data")
    assert figures["dataset"] == "tiny"
    assert figures["queries"] == 3
    assert figures["ingest"]["new"] == 4
    second = 1 / math.log2(3)
    expected = {"nDCG@10": (second + 1 + 1) / 3, "R@100": 1.0, "RR@10": (0.5 + 1 + 1) / 3}
    assert figures["modes"]["lexical"] == pytest.approx(expected)
    assert set(figures["modes"]) == {"hybrid", "dense", "lexical", "rrf"}
    assert all(set(values) == set(expected) for values in figures["modes"].values())


def test_a_second_run_embeds_nothing_and_says_the_same(dataset: Path, tmp_path: Path) -> None:
    first, second = (evaluated(dataset, tmp_path / "data") for _ in range(2))
    assert first["ingest"]["embedded"] > 0
    assert second["ingest"]["embedded"] == 0
    assert second["ingest"]["unchanged"] == 4
    assert first["modes"] == second["modes"]


def test_a_folder_that_is_no_data_set(dataset: Path, tmp_path: Path) -> None:
    (dataset / "qrels" / "test.tsv").rename(dataset / "qrels" / "dev.tsv")
    with pytest.raises(Conflict, match="no judged queries"):
        evaluated(dataset, tmp_path / "data")
    (dataset / "queries.jsonl").unlink()
    with pytest.raises(Conflict, match=r"queries\.jsonl"):
        evaluated(dataset, tmp_path / "data")


def test_under_the_floor_is_a_failure(dataset: Path, tmp_path: Path) -> None:
    figures = evaluated(dataset, tmp_path)
    missed = ragsvc(tmp_path, "eval", str(dataset), RAGSVC_EMBEDDER=HASH, RAGSVC_FLOOR="1.01")
    assert missed.returncode == 1
    assert "under the floor of 1.01" in missed.stderr
    assert f"{figures['modes']['hybrid']['nDCG@10']:.4f}" in missed.stderr
    assert "lexical" in missed.stdout
