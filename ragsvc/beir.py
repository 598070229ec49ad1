"""What does a data set in BEIR layout ask? queries.jsonl {_id, text}, qrels/test*.tsv (query-id corpus-id score)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from ingest.errors import Conflict


def check_layout(folder: Path, *names: str) -> None:
    """Raises Conflict naming the part that is not there."""
    for name in names:
        if not (folder / name).exists():
            raise Conflict(
                f"{folder} has no {name}.", hint="BEIR layout: corpus.jsonl, queries.jsonl, qrels/test*.tsv."
            )


def judgements(folder: Path) -> dict[str, dict[str, int]]:
    """Query id -> {document: grade}, of the test qrels. Raises Conflict."""
    check_layout(folder, "queries.jsonl", "qrels")
    found: dict[str, dict[str, int]] = {}
    for path in sorted((folder / "qrels").glob("test*.tsv")):
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.reader(lines, delimiter="\t"):
                if row and row[0] != "query-id":
                    found.setdefault(row[0], {})[row[1]] = int(row[2])
    if not found:
        raise Conflict(f"{folder} has no judged queries.", hint="They are looked for in qrels/test*.tsv.")
    return found


def questions(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every query, judged or not."""
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        for one in map(json.loads, lines):
            yield one["_id"], one["text"]
