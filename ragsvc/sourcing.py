"""Adding and removing sources: what API and command line share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexes.model import MetadataValue
from ingest.catalog.sources import PUSH
from ingest.connectors.files import file_uri, uri_path
from ingest.errors import Conflict
from ingest.ingestion import open_connector
from ingest.model import DeadLetter, Job, Source
from ingest.pipeline import now_utc
from ragsvc.bootstrap import Service


@dataclass(frozen=True, slots=True)
class NewSource:
    """A place to watch, before it is registered."""

    collection: str
    kind: str
    uri: str
    options: Mapping[str, Any] = field(default_factory=dict)
    watch: bool = False
    schedule: Mapping[str, str] | None = None
    freshness_sla_s: int | None = None
    access: frozenset[str] | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


def add_source(service: Service, new: NewSource, *, actor: str) -> tuple[Source, Job]:
    """Register a source and queue its first sync, in one transaction. Raises Conflict, ModelMissing."""
    path = uri_path(new.uri)
    if not path.exists():
        raise Conflict(f"{path} does not exist on the machine of the service.", hint="Give an existing folder or file.")
    data = service.settings.data.resolve()
    real = path.resolve()
    if real == data or data in real.parents or real in data.parents:
        raise Conflict(f"{path} and the data folder {data} lie in each other.", hint="Watch another folder.")
    service.embedder_of(service.settings.embedder)
    with service.catalog.write():
        collection = service.ensure_collection(new.collection)
        source = service.catalog.sources.add(
            collection_id=collection.id,
            kind=new.kind,
            uri=file_uri(path.absolute()),
            options=new.options,
            watch=new.watch,
            schedule=new.schedule,
            freshness_sla_s=new.freshness_sla_s,
            access=new.access,
            metadata=new.metadata,
            now=now_utc(),
        )
        open_connector(source)
        job = service.catalog.jobs.enqueue("sync", now=now_utc(), source_id=source.id)
        service.catalog.audit.record("source.add", source.id, actor=actor, now=now_utc())
    return source, job


def remove_source(service: Service, source: Source, *, actor: str) -> None:
    """Take the documents of a source out of force and forget the source."""
    now = now_utc()
    with service.catalog.write():
        documents = service.catalog.documents.of_source(source.id)
        service.catalog.recording.retire([document.id for document in documents.values()], now=now)
        service.catalog.sources.delete(source.id)
        service.catalog.audit.record("source.delete", source.id, actor=actor, now=now)


def retry_letter(service: Service, letter: DeadLetter) -> Job:
    """Queue the work that tries a dead letter again."""
    now = now_utc()
    source = service.catalog.sources.get(letter.source_id)
    with service.catalog.write():
        service.catalog.dead_letters.retry(letter.id, now=now)
        if source.kind == PUSH:
            return service.catalog.jobs.enqueue("push", now=now, source_id=source.id, payload={"uri": letter.uri})
        return service.catalog.jobs.enqueue("sync", now=now, source_id=source.id)


def place_uri(place: str) -> str:
    """The URI of a path as it is typed. Raises Conflict for places that no connector reads."""
    if "://" in place and not place.startswith("file://"):
        raise Conflict(f"No connector of this release reads {place}.", hint="Give a folder or a file.")
    return place if place.startswith("file://") else file_uri(Path(place).expanduser().absolute())
