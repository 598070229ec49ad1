"""Ids from content: a rerun makes the same ids, so it changes nothing."""

from __future__ import annotations

import hashlib
import secrets


def content_id(prefix: str, *parts: object) -> str:
    """`prefix_` and 24 hex digits (96 bits) of the parts' hash."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        encoded = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return f"{prefix}_{digest.hexdigest()}"


def random_id(prefix: str) -> str:
    """An id for a thing that has no content yet: a job, a key."""
    return f"{prefix}_{secrets.token_hex(12)}"


def vector_key(embedder_id: str, text: str) -> bytes:
    """16 bytes that name the vector of exactly this text by exactly this model."""
    digest = hashlib.blake2b(embedder_id.encode(), digest_size=16)
    digest.update(b"\0")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()
