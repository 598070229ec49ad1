"""What is in one sealed segment, and is it undamaged? An immutable folder of rows.

dense.faiss    vectors                      lexical/       the tantivy index
rows.npz       version and ordinal of each row, and its terms as numbers
rows.json      chunk ids, version ids, vocabulary
manifest.json  counts, and size and SHA-256 of every other file; its own SHA-256 is in the snapshot

Useful for: rows that change rarely. Not useful for: changing anything; a row dies by its version's `home`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from indexes import durable
from indexes.dense import DenseIndex, read_dense, write_dense
from indexes.durable import Stamp
from indexes.errors import SegmentDamaged
from indexes.lexical import LexicalIndex, read_lexical, write_lexical
from indexes.model import Matrix
from indexes.postings import Terms

FORMAT: Final = 1
DENSE, LEXICAL, ROWS, NAMES, MANIFEST = "dense.faiss", "lexical", "rows.npz", "rows.json", "manifest.json"
LOCKS: Final = (".tantivy-writer.lock", ".tantivy-meta.lock")
"""tantivy makes these whenever it opens a folder. They are empty and hold nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The rows of a segment. Rows of the same version stand together.

    `version` is an index into `version_ids` per row, `ordinal` the chunk's place in its version,
    `vectors` float32 of shape (rows, dimensions).
    """

    chunk_ids: tuple[str, ...]
    version_ids: tuple[str, ...]
    version: NDArray[np.int32]
    ordinal: NDArray[np.int32]
    terms: Terms
    vectors: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment that was checked and loaded."""

    id: str
    manifest: Stamp
    contents: Contents
    dense: DenseIndex
    lexical: LexicalIndex


def write_segment(folder: Path, contents: Contents, *, generation_id: str) -> Stamp:
    """Write a segment aside and publish it as `folder`. Returns the stamp of its manifest.

    Raises StorageFailed; then nothing of it is left.
    """
    aside = folder.with_name(durable.ASIDE + folder.name)
    try:
        with durable.storage(f"Segment {folder.name}"):
            durable.make_folder(aside / LEXICAL)
            write_lexical(aside / LEXICAL, contents.terms)
            write_dense(aside / DENSE, contents.vectors)
            durable.write(aside / ROWS, _pack_rows(contents))
            durable.write(aside / NAMES, _pack_names(contents))
            manifest = durable.write(aside / MANIFEST, _manifest(aside, contents, generation_id))
            durable.sync_folder(aside)
            durable.publish(aside, folder)
            return manifest
    finally:
        durable.delete(aside)


def read_segment(folder: Path, expected: Stamp, *, generation_id: str) -> Segment:
    """Check every byte of a segment, then load it. Raises SegmentDamaged."""
    problems = check_segment(folder, expected)
    if problems:
        raise SegmentDamaged(f"Segment {folder.name}: {problems[0]}.")
    manifest = _read_manifest(folder)
    try:
        contents, dense = _load(folder)
    except (ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise SegmentDamaged(f"Segment {folder.name}: its row table cannot be read ({error}).") from error
    contents.terms.prepare()
    lexical = read_lexical(folder / LEXICAL, contents.terms)
    counts = {len(contents.chunk_ids), len(dense), len(lexical), len(contents.terms), manifest["rows"]}
    if len(counts) != 1:
        raise SegmentDamaged(f"Segment {folder.name}: its parts hold different numbers of rows: {sorted(counts)}.")
    if manifest["generation"] != generation_id:
        raise SegmentDamaged(f"Segment {folder.name} belongs to generation {manifest['generation']}.")
    return Segment(folder.name, expected, contents, dense, lexical)


def check_segment(folder: Path, expected: Stamp) -> list[str]:
    """Compare every byte with the manifest, and the manifest with the snapshot. One line per problem."""
    wrong = _differs(folder / MANIFEST, expected)
    if wrong:
        return [f"{MANIFEST} {wrong}"]
    try:
        files = {name: Stamp(**entry) for name, entry in _read_manifest(folder)["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} has no list of files ({error})"]
    problems = [f"{name} {wrong}" for name, stamp in files.items() if (wrong := _differs(folder / name, stamp))]
    extra = sorted(set(_files(folder)) - set(files))
    return problems + [f"{name} is not in the manifest" for name in extra]


def _differs(path: Path, expected: Stamp) -> str | None:
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"has {size} bytes instead of {expected.size}"
        return None if durable.stamp(path) == expected else "does not have the SHA-256 it was written with"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in (*LOCKS, MANIFEST))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _manifest(folder: Path, contents: Contents, generation_id: str) -> bytes:
    manifest = {
        "format": FORMAT,
        "generation": generation_id,
        "rows": len(contents.chunk_ids),
        "dimensions": contents.vectors.shape[1],
        "versions": len(contents.version_ids),
        "terms": len(contents.terms.vocabulary),
        "dense": "flat inner product, exact",
        "files": {name: asdict(durable.stamp(folder / name)) for name in _files(folder)},
    }
    return json.dumps(manifest, indent=1).encode("ascii")


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise SegmentDamaged(f"Segment {folder.name}: {MANIFEST} cannot be read ({error}).") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SegmentDamaged(f"Segment {folder.name} has a format that this version of ragsvc does not know.")
    return manifest


def _pack_rows(contents: Contents) -> bytes:
    buffer = io.BytesIO()
    terms = contents.terms
    np.savez(
        buffer,
        allow_pickle=False,
        version=contents.version,
        ordinal=contents.ordinal,
        offsets=terms.offsets,
        ids=terms.ids,
        counts=terms.counts,
    )
    return buffer.getvalue()


def _pack_names(contents: Contents) -> bytes:
    names = {
        "chunks": contents.chunk_ids,
        "versions": contents.version_ids,
        "vocabulary": contents.terms.vocabulary,
    }
    return json.dumps(names).encode("ascii")  # ASCII: a term may hold lone surrogates


def _load(folder: Path) -> tuple[Contents, DenseIndex]:
    names = json.loads((folder / NAMES).read_bytes())
    with np.load(folder / ROWS, allow_pickle=False) as rows:
        terms = Terms(tuple(names["vocabulary"]), rows["offsets"], rows["ids"], rows["counts"])
        version, ordinal = rows["version"], rows["ordinal"]
    dense = read_dense(folder / DENSE)
    contents = Contents(tuple(names["chunks"]), tuple(names["versions"]), version, ordinal, terms, dense.vectors)
    return contents, dense
