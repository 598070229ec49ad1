"""The values of an answer. Frozen; they refer to documents and versions by id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from indexes.model import Span, Vector

DropReason = Literal["budget", "duplicate", "threshold"]
Compression = Literal["sentences", "none"]
Verdict = Literal["answerable", "weak", "none"]


@dataclass(frozen=True, slots=True)
class CandidateSentence:
    """A sentence of a candidate. `vector` is float32, unit length, shape (dimensions,), or None if unknown."""

    ordinal: int
    span: Span
    text: str
    vector: Vector | None = None
    is_heading: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that was found, ready to be packed. `score` is the fused score, 0 to 1.

    `version` counts the versions of the document from 1; `date` is YYYY-MM-DD, the day it came into force.
    `lang` is the language that its index terms were made with.
    """

    chunk_id: str
    version_id: str
    document_id: str
    span: Span
    heading_path: tuple[str, ...]
    title: str
    version: int
    date: str
    score: float
    sentences: tuple[CandidateSentence, ...]
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the context. `text` is the version's text at `spans`, joined by " ... "; `score` is 0 to 1."""

    ref: int
    version_id: str
    document_id: str
    spans: tuple[Span, ...]
    text: str
    heading_path: tuple[str, ...]
    chunk_ids: tuple[str, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that gave nothing to the context, and why."""

    chunk_id: str
    version_id: str
    spans: tuple[Span, ...]
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Packed:
    """The context for the caller's model, with what it is made of and what was left out."""

    context: str
    passages: tuple[Passage, ...]
    context_tokens: int
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Sufficiency:
    """How sure we are, 0 to 1, that the topic is there (`on_topic`) and the answer too (`sufficient`)."""

    on_topic: float
    sufficient: float
    verdict: Verdict
