"""Index generations and evaluation sets to JSON. Apart from views.py only for its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from indexes.model import PartReport, Snapshot
from ingest.model import Build, Judged
from ragsvc.views import moment


def generation(value: Build, *, collection: str, gap: int, index: dict[str, Any]) -> dict[str, Any]:
    """An index generation. `gap` counts the versions that it has not got yet."""
    made = value.generation
    return {
        "id": made.id,
        "collection": collection,
        "state": value.state,
        "serving": value.state == "serving",
        "embedder": made.embedder,
        "model": value.model,
        "dimensions": made.dimensions,
        "chunker": made.chunker,
        "analyzer": made.analyzer,
        "created_at": moment(value.created_at),
        "activated_at": moment(value.activated_at),
        "complete": gap == 0,
        "gap": gap,
        "report": None if value.report is None else dict(value.report),
        "index": index,
    }


def index(state: Snapshot, parts: Sequence[PartReport]) -> dict[str, Any]:
    """The state of a generation's index in this process, part by part."""
    return {
        "seq": state.seq,
        "chunks": state.chunks,
        "segments": [asdict(part) for part in parts],
        "error": None,
    }


def no_index(why: str) -> dict[str, Any]:
    """The same where it is not open."""
    return {"seq": 0, "chunks": 0, "segments": [], "error": why}


def evaluation(judged: Sequence[Judged]) -> dict[str, Any]:
    """An evaluation set as it was put."""
    return {"queries": [{"id": one.id, "query": one.text, "relevant": dict(one.relevant)} for one in judged]}
