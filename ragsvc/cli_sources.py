"""Commands about sources: add, sync, sources, documents, jobs, dead-letters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexes.errors import RagsvcError
from ragsvc.cli_shared import console, duration, opened, show
from ragsvc.options import option

if TYPE_CHECKING:
    from ingest.model import Job
    from ragsvc.bootstrap import Service

JsonOption = Annotated[bool, option("--json", help="JSON for machines.")]
_LOOKS = 5  # a file that is written all the time must not hold the command for ever
SAMPLE = Path(__file__).parent / "samples" / "handbook"


class JobFailed(RagsvcError):
    """The job did not succeed."""

    hint = "See `ragsvc jobs` and `ragsvc dead-letters`."


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (add, sync, sources, documents, jobs):
        app.command()(command)
    app.command("dead-letters")(dead_letters)


def add(
    place: str,
    collection: Annotated[str, option("--collection", help="Collection to add to; made if new.")] = "default",
    watch: Annotated[bool, option("--watch", help="Follow every change at once, and scan at the interval.")] = False,
    interval: Annotated[str | None, option("--interval", help="Scan interval, such as 60s or 5m.")] = None,
    include: Annotated[list[str] | None, option("--include", help="Glob of files to take; may repeat.")] = None,
    exclude: Annotated[list[str] | None, option("--exclude", help="Glob of files to leave out; may repeat.")] = None,
    parser: Annotated[str | None, option("--parser", help="default or unstructured.")] = None,
    access: Annotated[list[str] | None, option("--access", help="Principal that may read; may repeat.")] = None,
    sla: Annotated[str | None, option("--sla", help="Freshness SLA, such as 1h.")] = None,
) -> None:
    """Make PATH a source and ingest it, with a progress bar."""
    from ragsvc.sourcing import NewSource, add_source, place_uri

    sla_s = duration(sla, "--sla")
    duration(interval, "--interval")
    options = {"include": include, "exclude": exclude, "parser": parser}
    with opened(writable=True) as service:
        every = interval or (service.settings.scan_interval if watch else None)
        new = NewSource(
            collection=collection,
            kind="files",
            uri=place_uri(place),
            options={name: value for name, value in options.items() if value},
            watch=watch,
            schedule=None if every is None else {"interval": every},
            freshness_sla_s=None if sla_s is None else round(sla_s),
            access=frozenset(access) if access else None,
        )
        source, job = add_source(service, new, actor="cli")
        console.print(f"{source.id} -> collection {collection}")
        _finish(service, job)
        if watch and service.ingestion is not None:
            console.print("It is watched while `ragsvc up` (or `ragsvc work`) runs.")


def sync(
    source: str,
    approve_deletions: Annotated[
        int, option("--approve-deletions", help="Let up to that many withheld deletions pass.", min=0)
    ] = 0,
) -> None:
    """Sync a source now, with a progress bar."""
    from ingest.pipeline import now_utc

    with opened(writable=True) as service:
        found = service.catalog.sources.get(source)
        payload = {"approve_deletions": approve_deletions} if approve_deletions else {}
        _finish(service, service.catalog.jobs.enqueue("sync", now=now_utc(), source_id=found.id, payload=payload))


def _finish(service: Service, job: Job) -> None:
    """Watch a job until it has ended; where no service runs, this process works on it. Raises JobFailed."""
    from ingest.worker import Worker
    from ragsvc.showing import follow_job

    worker = None
    if service.ingestion is not None:
        worker = Worker(service.catalog, service.ingestion.handlers(), threads=1)
        worker.start()
    try:
        ended = follow_job(job.id, service.catalog.jobs.get, console)
        _say(ended)
        for _ in range(_LOOKS):
            again = _looks_again(service, ended)
            if again is None:
                break
            ended = follow_job(again.id, service.catalog.jobs.get, console)
            _say(ended)
    finally:
        if worker is not None:
            worker.stop()
    if ended.state != "succeeded":
        error = ended.error or {}
        raise JobFailed(str(error.get("title", f"The job was {ended.state}.")), hint=error.get("hint"))


def _looks_again(service: Service, ended: Job) -> Job | None:
    """The job that waits for files that are still being written, or were a moment ago."""
    source_id = ended.source_id
    if not ended.counts.get("skipped") or source_id is None or service.catalog.dead_letters.of_source(source_id):
        return None
    waiting, _ = service.catalog.jobs.page(limit=1, state="queued", source_id=source_id)
    return waiting[0] if waiting else None


def _say(ended: Job) -> None:
    """One line of what came of a job, and what to do about it."""
    counts = ", ".join(f"{count} {name}" for name, count in ended.counts.items() if count)
    console.print(f"{ended.state}: {counts or 'nothing to do'}")
    if ended.counts.get("failed"):
        console.print("Some documents failed: `ragsvc dead-letters` says why.")
    if ended.counts.get("withheld"):
        withheld = ended.counts["withheld"]
        console.print(
            f"Deletions withheld; to let them pass: ragsvc sync {ended.source_id} --approve-deletions {withheld}"
        )


def sources(json: JsonOption = False) -> None:
    """List the sources with their state."""
    from ragsvc.routes.sources import shown

    with opened(writable=False) as service:
        rows = [shown(service, source) for source in service.catalog.sources.all()]
    columns = ("id", "collection", "uri", "watch", "state.status", "state.documents", "state.last_verified_at")
    show(rows, columns, as_json=json)


def documents(
    document: Annotated[str | None, typer.Argument(help="Show the versions of this document.")] = None,
    collection: Annotated[str | None, option("--collection", help="Only of this collection.")] = None,
    limit: Annotated[int, option("--limit", help="At most so many.", min=1, max=10_000)] = 100,
    json: JsonOption = False,
) -> None:
    """List documents, or the versions of one."""
    from indexes.model import Allowed
    from ragsvc import views

    everything = Allowed.everything()
    with opened(writable=False) as service:
        catalog = service.catalog
        if document is not None:
            catalog.documents.get(document, allowed=everything)
            rows = [views.version(version) for version in catalog.documents.versions_of(document)]
            show(rows, ("id", "ordinal", "valid_from", "valid_to", "characters"), as_json=json)
            return
        only = None if collection is None else catalog.collections.get(collection).id
        found, _ = catalog.documents.page(collection_id=only, allowed=everything, limit=limit, after="")
        names = {c.id: c.name for c in catalog.collections.all()}
        rows = [views.document_ref(one, names[one.collection_id]) for one in found]
    show(rows, ("id", "collection", "title", "uri"), as_json=json)


def jobs(
    job: Annotated[str | None, typer.Argument(help="Show this job alone.")] = None,
    cancel: Annotated[bool, option("--cancel", help="Cancel the job.")] = False,
    limit: Annotated[int, option("--limit", help="At most so many.", min=1, max=10_000)] = 20,
    json: JsonOption = False,
) -> None:
    """List jobs, show one, or cancel it."""
    from ingest.pipeline import now_utc
    from ragsvc import views
    from ragsvc.cli_shared import BadUsage

    if cancel and job is None:
        raise BadUsage("Say which job to cancel: ragsvc jobs JOB --cancel")
    with opened(writable=False) as service:
        table = service.catalog.jobs
        if job is not None:
            found = [table.cancel(job, now=now_utc()) if cancel else table.get(job)]
        else:
            found = list(table.page(limit=limit)[0])
    columns = ("id", "kind", "state", "source", "counts", "created_at", "error.title")
    show([views.job(one) for one in found], columns, as_json=json)


def dead_letters(
    letter: Annotated[str | None, typer.Argument(help="A dead letter to retry.")] = None,
    retry: Annotated[bool, option("--retry", help="Try this document again now.")] = False,
    limit: Annotated[int, option("--limit", help="At most so many.", min=1, max=10_000)] = 100,
    json: JsonOption = False,
) -> None:
    """List the documents that could not be ingested and why, or retry one."""
    from ragsvc import views
    from ragsvc.cli_shared import BadUsage
    from ragsvc.sourcing import retry_letter

    if retry != (letter is not None):
        raise BadUsage("To retry: ragsvc dead-letters LETTER --retry")
    with opened(writable=letter is not None) as service:
        if letter is not None:
            _finish(service, retry_letter(service, service.catalog.dead_letters.get(letter)))
            return
        found, _ = service.catalog.dead_letters.page(limit=limit)
    show([views.dead_letter(one) for one in found], ("id", "uri", "reason", "hint"), as_json=json)


def add_sample(service: Service) -> None:
    """The sample handbook as a source, once."""
    from ingest.errors import Conflict
    from ragsvc.sourcing import NewSource, add_source, place_uri

    try:
        add_source(service, NewSource("sample", "files", place_uri(str(SAMPLE))), actor="cli")
    except Conflict:
        console.print("The sample handbook is here already.")
