"""What is in one sealed segment, and is it undamaged? An immutable folder of rows.

rows.columns   version, ordinal and id of each row, and its terms, both ways (columns.py)
dense/         the vectors                  lexical/       the tantivy index
manifest.json  counts, and size and SHA-256 of every other file; its own SHA-256 is in the snapshot

All of it is mapped into memory, so a segment costs almost nothing until it is asked. Useful for: rows that change
rarely. Not useful for: changing anything; a row dies by its version's `home`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from indexes import durable
from indexes.columns import ColumnWriter, Ints, TextTable, map_columns
from indexes.dense import DenseIndex, read_dense, write_dense
from indexes.durable import Stamp
from indexes.errors import SegmentDamaged
from indexes.joining import Joining, read_terms, write_rows
from indexes.lexical import LexicalIndex, read_lexical, write_lexical
from indexes.model import DENSE_DEFAULTS, DenseOptions, DenseReport
from indexes.postings import Terms

FORMAT: Final = 2
DENSE, LEXICAL, ROWS, MANIFEST = "dense", "lexical", "rows.columns", "manifest.json"
LOCKS: Final = (".tantivy-writer.lock", ".tantivy-meta.lock")
"""tantivy makes these whenever it opens a folder. They are empty and hold nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The rows of a segment but their vectors, mapped. Rows of the same version stand together.

    `version` is an index into `version_ids` per row, `ordinal` the chunk's place in its version.
    """

    chunk_ids: TextTable
    version_ids: TextTable
    version: Ints
    ordinal: Ints
    terms: Terms


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment that was checked and loaded."""

    id: str
    manifest: Stamp
    contents: Contents
    dense: DenseIndex
    lexical: LexicalIndex
    size: int
    """Bytes on the disk."""


def write_segment(
    folder: Path, joining: Joining, *, generation_id: str, among: int = 0, options: DenseOptions = DENSE_DEFAULTS
) -> Stamp:
    """Write a segment aside and publish it as `folder`. Returns the stamp of its manifest.

    `among` is how many rows the generation has in all.
    Raises StorageFailed; then nothing of it is left.
    """
    aside = folder.with_name(durable.ASIDE + folder.name)
    try:
        with durable.storage(f"Segment {folder.name}"):
            durable.make_folder(aside)
            with durable.stream(aside / ROWS) as file:
                writer = ColumnWriter(file)
                write_rows(writer, joining)
                writer.finish()
            terms = read_terms(map_columns(aside / ROWS))
            durable.make_folder(aside / LEXICAL)
            write_lexical(aside / LEXICAL, terms)
            durable.make_folder(aside / DENSE)
            dense = write_dense(
                aside / DENSE,
                joining.vectors(),
                rows=len(joining),
                dimensions=joining.dimensions,
                among=among,
                options=options,
            )
            body = _manifest(aside, joining, terms, dense, generation_id)
            manifest = durable.write(aside / MANIFEST, body)
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
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SegmentDamaged(f"Segment {folder.name}: its row table cannot be read ({error}).") from error
    lexical = read_lexical(folder / LEXICAL, contents.terms)
    counts = {*_counts(contents), len(dense), len(lexical), manifest["rows"]}
    if len(counts) != 1:
        raise SegmentDamaged(f"Segment {folder.name}: its parts hold different numbers of rows: {sorted(counts)}.")
    if manifest["generation"] != generation_id:
        raise SegmentDamaged(f"Segment {folder.name} belongs to generation {manifest['generation']}.")
    size = expected.size + sum(entry["size"] for entry in manifest["files"].values())
    return Segment(folder.name, expected, contents, dense, lexical, size)


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


def _manifest(folder: Path, joining: Joining, terms: Terms, dense: DenseReport, generation_id: str) -> bytes:
    manifest = {
        "format": FORMAT,
        "generation": generation_id,
        "rows": len(joining),
        "dimensions": joining.dimensions,
        "versions": len(joining.version_ids),
        "terms": len(terms.vocabulary),
        "dense": asdict(dense),
        "files": {name: asdict(durable.stamp(folder / name)) for name in _files(folder)},
    }
    return json.dumps(manifest, indent=1).encode("ascii")


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise SegmentDamaged(f"Segment {folder.name}: {MANIFEST} cannot be read ({error}).") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SegmentDamaged(
            f"Segment {folder.name} has a format that this version of ragsvc does not know, so it is built again."
        )
    return manifest


def _load(folder: Path) -> tuple[Contents, DenseIndex]:
    columns = map_columns(folder / ROWS)
    contents = Contents(
        chunk_ids=columns.texts("chunks"),
        version_ids=columns.texts("versions"),
        version=columns.array("version"),
        ordinal=columns.array("ordinal"),
        terms=read_terms(columns),
    )
    return contents, read_dense(folder / DENSE)


def _counts(contents: Contents) -> set[int]:
    return {len(contents.chunk_ids), len(contents.version), len(contents.ordinal), len(contents.terms)}
