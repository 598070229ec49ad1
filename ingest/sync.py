"""What a listing means for what is known: a pure function, with the mass-delete brake.

Absence is not deletion. Only a complete listing may say that something is gone, and a listing that misses
more than 10 documents and more than 10 % of the source is not believed until someone approves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ingest.model import DeadLetter, Document, Item

BRAKE_COUNT = 10
BRAKE_SHARE = 0.10


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do. `skipped` failed before and did not change; `withheld` are deletions not believed."""

    fetch: tuple[Item, ...]
    unchanged: tuple[Item, ...]
    skipped: tuple[Item, ...]
    missing: tuple[Document, ...]
    withheld: tuple[Document, ...]


def diff(
    listing: Sequence[Item],
    known: Mapping[str, Document],
    letters: Mapping[str, DeadLetter],
    *,
    now: datetime,
    approved: int = 0,
) -> Plan:
    """Compare a complete listing with the live documents of a source.

    `approved` is the number of deletions that someone has agreed to: a ceiling, not a wish.
    """
    fetch: list[Item] = []
    unchanged: list[Item] = []
    skipped: list[Item] = []
    for item in listing:
        letter, document = letters.get(item.uri), known.get(item.uri)
        if letter is not None and letter.fingerprint == item.fingerprint:
            due = letter.retry_at is not None and letter.retry_at <= now
            (fetch if due else skipped).append(item)
        elif document is not None and document.fingerprint == item.fingerprint:
            unchanged.append(item)
        else:
            fetch.append(item)
    listed = {item.uri for item in listing}
    missing = tuple(document for uri, document in known.items() if uri not in listed)
    braked = is_mass_deletion(len(missing), len(known)) and len(missing) > approved
    return Plan(tuple(fetch), tuple(unchanged), tuple(skipped), () if braked else missing, missing if braked else ())


def is_mass_deletion(missing: int, known: int) -> bool:
    """More than 10 documents and more than 10 % of the source."""
    return missing > BRAKE_COUNT and missing > BRAKE_SHARE * known
