"""What is the fingerprint of an indexed row? The same for a chunk of the catalogue and for what an index holds.

It covers what a search may depend on: terms, vector, and the version's times with every closing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from indexes.model import Chunk, Closing, Put, Vector


def row_hash(chunk: Chunk, version: Put) -> str:
    """SHA-256, in hex, over the sorted terms, the times of its version and the float32 bytes of the vector."""
    return hash_of(sorted(chunk.terms), chunk.vector, times_of(version))


def times_of(version: Put) -> tuple[int, ...]:
    """When it begins, the entry that recorded it, and its closings, ascending: the times in the order of the hash."""
    closings = (*version.earlier, Closing(version.closed_seq, version.valid_to))
    return (
        version.valid_from,
        version.recorded_seq,
        *(n for closing in closings for n in (closing.seq, closing.valid_to)),
    )


def hash_of(terms: Sequence[str], vector: Vector, times: Sequence[int]) -> str:
    """The same from terms that are sorted already (repeats kept). No engine may round a vector."""
    # JSON marks where a term ends, whatever it holds; ASCII because a term may hold lone surrogates.
    digest = hashlib.sha256(json.dumps([list(terms), list(times)], ensure_ascii=True).encode("ascii"))
    digest.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    return digest.hexdigest()
