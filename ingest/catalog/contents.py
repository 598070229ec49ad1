"""What does a version hold? Its text, and in each generation its chunks and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from indexes.model import Generation
from ingest.catalog import rows
from ingest.catalog.ids import content_id
from ingest.catalog.tables import chunks, texts, vectors
from ingest.model import ChunkDraft, Draft, Embedded


def insert_contents(
    conn: sa.Connection, version_id: str, draft: Draft, embedded: Embedded, generation: Generation
) -> None:
    """The text of a new version, and its chunks in the generation that serves."""
    conn.execute(
        texts.insert().values(
            version_id=version_id,
            text=draft.text.text,
            blocks=rows.blocks_json(draft.text.blocks),
            sentences=rows.spans_bytes(draft.sentences),
        )
    )
    insert_vectors(conn, version_id, draft.chunks, embedded, generation)


def insert_vectors(
    conn: sa.Connection, version_id: str, drafts: Sequence[ChunkDraft], embedded: Embedded, generation: Generation
) -> None:
    """The chunks of a version in a generation, and the sentence vectors that were not known."""
    if drafts:
        conn.execute(chunks.insert(), _chunk_rows(version_id, drafts, embedded, generation))
    if embedded.fresh:
        values = [{"key": key, "vector": rows.vector_bytes(vector)} for key, vector in embedded.fresh.items()]
        dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
        conn.execute(dialect.insert(vectors).on_conflict_do_nothing(), values)


def _chunk_rows(
    version_id: str, drafts: Sequence[ChunkDraft], embedded: Embedded, generation: Generation
) -> list[dict[str, Any]]:
    return [
        {
            "generation_id": generation.id,
            "version_id": version_id,
            "ordinal": ordinal,
            "id": content_id("chk", version_id, generation.chunker, ordinal, *asdict(chunk.span).values()),
            "char_start": chunk.span.start,
            "char_end": chunk.span.end,
            "heading_path": list(chunk.heading_path),
            "page_start": chunk.page_start,
            "page_end": chunk.page_end,
            "vector": rows.vector_bytes(vector),
        }
        for ordinal, (chunk, vector) in enumerate(zip(drafts, embedded.chunk_vectors, strict=True))
    ]
