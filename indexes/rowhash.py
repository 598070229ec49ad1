"""What is the fingerprint of an indexed row? The same for a chunk of the catalogue and for what an index holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from indexes.model import Chunk, Vector


def row_hash(chunk: Chunk) -> str:
    """SHA-256, in hex, over the sorted terms and the float32 bytes of the vector."""
    return hash_of(sorted(chunk.terms), chunk.vector)


def hash_of(terms: Sequence[str], vector: Vector) -> str:
    """The same from terms that are sorted already (repeats kept). No engine may round a vector."""
    # JSON marks where a term ends, whatever it holds; ASCII because a term may hold lone surrogates.
    digest = hashlib.sha256(json.dumps(list(terms), ensure_ascii=True).encode("ascii"))
    digest.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    return digest.hexdigest()
