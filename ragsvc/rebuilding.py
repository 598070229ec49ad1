"""How is a new generation asked for? What the API and the command line do alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexes.errors import EmbedderError, RagsvcError
from ingest.errors import Conflict
from ingest.model import Build, Job
from ingest.pipeline import now_utc
from ingest.reindex import SMALL_GAP
from ingest.run import Run
from ragsvc.bootstrap import Service
from ragsvc.errors import Invalid


def queue_reindex(
    service: Service, name: str, wanted: Mapping[str, Any], *, actor: str, idempotency_key: str | None = None
) -> Job:
    """Queue a reindex of a collection; a wrong wish is refused before anything begins.

    Raises NotFound, Invalid for a part that there is not, Conflict if the collection is of this recipe or is being
    reindexed.
    """
    payload = {"collection": name, **{key: value for key, value in wanted.items() if value is not None}}
    now = now_utc()
    with service.catalog.write():
        job = service.catalog.jobs.enqueue("reindex", now=now, payload=payload, idempotency_key=idempotency_key)
        if job.created_at != now:
            return job  # the same Idempotency-Key
        _refuse_second(service, name, besides=job.id)
        check_recipe(service, name, payload)
        service.catalog.audit.record("reindex", name, actor=actor, now=now, detail={**payload, "job": job.id})
    return job


def check_recipe(service: Service, name: str, wanted: Mapping[str, Any]) -> None:
    """Raises NotFound, Invalid, Conflict."""
    collection = service.catalog.collections.get(name)
    try:
        recipe = service.reindexing.recipe(collection, wanted)
    except EmbedderError as error:
        if type(error) is not EmbedderError:
            raise  # the model is missing or damaged: the request is right
        raise Invalid(error.message, hint=error.hint) from error
    except RagsvcError as error:
        raise Invalid(error.message, hint=error.hint) from error
    service.reindexing.find(collection, recipe)


def _refuse_second(service: Service, name: str, *, besides: str | None = None) -> None:
    """Raises Conflict while a collection is being reindexed."""
    for state in ("queued", "running"):
        before = None
        while True:
            jobs, before = service.catalog.jobs.page(limit=200, before=before, state=state)
            for job in jobs:
                if job.kind == "reindex" and job.payload.get("collection") == name and job.id != besides:
                    raise Conflict(
                        f"Collection {name!r} is being reindexed already, by job {job.id}.",
                        hint=f"Wait for it, or cancel it: `ragsvc jobs {job.id} --cancel`.",
                    )
            if before is None:
                break


def activate(service: Service, generation_id: str, *, actor: str) -> Build | Job:
    """Let a generation serve: at once if little came since it did, else by a job. Raises NotFound, Conflict."""
    build = service.catalog.generations.get(generation_id)
    name = service.catalog.collections.by_id(build.generation.collection_id).name
    if service.reindexing.gap(generation_id) <= SMALL_GAP:
        return service.reindexing.activate(generation_id, Run(), actor=actor)
    payload = {"collection": name, "activate": generation_id}
    with service.catalog.write():
        _refuse_second(service, name)
        job = service.catalog.jobs.enqueue("reindex", now=now_utc(), payload=payload)
        service.catalog.audit.record("generation.activate", generation_id, actor=actor, now=now_utc())
    return job
