"""Commands about index generations: reindex, generations."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragsvc.cli_shared import console, opened, show
from ragsvc.cli_sources import JobFailed
from ragsvc.options import option

if TYPE_CHECKING:
    from ingest.model import Job
    from ingest.recipes import Plan, Recipe
    from ragsvc.bootstrap import Service

JsonOption = Annotated[bool, option("--json", help="JSON for machines.")]
_COLUMNS = ("id", "collection", "state", "embedder", "chunker", "analyzer", "gap", "index.chunks", "activated_at")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(reindex)
    generations = typer.Typer(no_args_is_help=True, help="Index generations.")
    generations.command("list")(list_generations)
    generations.command("activate")(activate)
    app.add_typer(generations, name="generations")


def reindex(
    collection: str,
    embedder: Annotated[str | None, option("--embedder", help="Model; else the collection keeps its own.")] = None,
    chunker: Annotated[str | None, option("--chunker", help="Chunker, such as structure-400-1.")] = None,
    analyzer: Annotated[str | None, option("--analyzer", help="standard-1 (stems words) or plain-1.")] = None,
    plan: Annotated[bool, option("--plan", help="Say what would be done, and do nothing.")] = False,
    force: Annotated[bool, option("--force", help="Switch though the new generation answers worse.")] = False,
    evaluation: Annotated[str | None, option("--evaluation", help="Folder in BEIR layout with the questions.")] = None,
    tolerance: Annotated[float, option("--tolerance", help="Loss of nDCG@10 that is allowed.", min=0, max=1)] = 0.01,
    json: JsonOption = False,
) -> None:
    """Build a new index generation beside the serving one, evaluate both, and switch if the new one is not worse."""
    from ragsvc.rebuilding import check_recipe, queue_reindex

    parts = {"embedder": embedder, "chunker": chunker, "analyzer": analyzer}
    wanted = {name: value for name, value in parts.items() if value is not None}
    with opened(writable=not plan) as service:
        check_recipe(service, collection, wanted)
        found = service.catalog.collections.get(collection)
        recipe = service.reindexing.recipe(found, wanted)
        if plan or not json:
            _show_plan(recipe, service.reindexing.plan(found, recipe), as_json=json)
        if plan:
            return
        if evaluation is not None:
            _store_evaluation(service, found.id, Path(evaluation))
        wishes = {**wanted, "force": force, "tolerance": tolerance}
        ended = _follow(service, queue_reindex(service, collection, wishes, actor="cli"), quiet=json)
        _tell(service, ended, as_json=json)


def _show_plan(recipe: Recipe, plan: Plan, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(jsonlib.dumps({**asdict(recipe), **asdict(plan)}) + "\n")
        return
    about = "" if plan.exact else "about "
    console.print(f"embedder {recipe.embedder}, chunker {recipe.chunker}, analyzer {recipe.analyzer}", highlight=False)
    console.print(
        f"{plan.versions} versions -> {about}{plan.chunks} chunks; to embed: {about}{plan.to_embed} of "
        f"{plan.sentences} sentences; {about}{plan.bytes / 1e6:.1f} MB; about {plan.seconds:.0f} s",
        highlight=False,
    )


def _store_evaluation(service: Service, collection_id: str, folder: Path) -> None:
    """The folder's questions become the collection's evaluation set."""
    from ingest.model import Judged
    from ingest.pipeline import now_utc
    from ragsvc.beir import judgements, questions

    judged = judgements(folder)
    asked = [Judged(name, text, judged[name]) for name, text in questions(folder) if name in judged]
    with service.catalog.write():
        service.catalog.evaluations.put(collection_id, asked, now=now_utc())
        service.catalog.audit.record("evaluation.put", collection_id, actor="cli", now=now_utc())


def _follow(service: Service, job: Job, *, quiet: bool) -> Job:
    """Watch a job until it has ended; where no service runs, this process works on it."""
    from rich.console import Console

    from ingest.worker import Worker
    from ragsvc.showing import follow_job

    worker = None
    if service.ingestion is not None:
        worker = Worker(service.catalog, service.ingestion.handlers(), threads=1)
        worker.start()
    try:
        return follow_job(job.id, service.catalog.jobs.get, Console(quiet=True) if quiet else console)
    finally:
        if worker is not None:
            worker.stop()


def _tell(service: Service, ended: Job, *, as_json: bool) -> None:
    """What came of a job. Raises JobFailed."""
    from ragsvc import views

    if as_json:
        sys.stdout.write(jsonlib.dumps(views.job(ended)) + "\n")
    if ended.state != "succeeded":
        error = ended.error or {}
        raise JobFailed(str(error.get("title", f"The job was {ended.state}.")), hint=error.get("hint"))
    if not as_json:
        found = service.catalog.collections.get(str(ended.payload["collection"]))
        build = service.catalog.generations.get(found.generation_id)
        for line in _figures((build.report or {}).get("evaluation")):
            console.print(line, highlight=False)
        console.print(f"{build.generation.id} serves; to go back: ragsvc generations list", highlight=False)


def _figures(evaluation: dict[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["nothing could be asked: the collection is empty"]
    asked = f"{evaluation['queries']} {evaluation['source']} questions"
    if evaluation["source"] == "sampled":
        asked += " (sentences of the documents: the collection has no evaluation set)"
    return [asked, *(f"{side:4} {_line(evaluation[side])}" for side in ("old", "new"))]


def _line(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in figures.items())


def list_generations(
    collection: Annotated[str | None, option("--collection", help="Only of this collection.")] = None,
    json: JsonOption = False,
) -> None:
    """List the index generations: which serve, which are built, which are kept to go back to."""
    from ragsvc.auth import OWNER
    from ragsvc.routes.generations import listed

    with opened(writable=False) as service:
        found = listed(service, OWNER, collection)
    show(found, _COLUMNS, as_json=json)


def activate(generation: str, json: JsonOption = False) -> None:
    """Let a generation that is kept serve again; what came since is filled in first."""
    from ingest.model import Job
    from ragsvc.rebuilding import activate as let_serve

    with opened(writable=True) as service:
        done = let_serve(service, generation, actor="cli")
        if isinstance(done, Job):
            _tell(service, _follow(service, done, quiet=json), as_json=json)
            return
    if json:
        sys.stdout.write(jsonlib.dumps({"id": done.generation.id, "state": done.state}) + "\n")
    else:
        console.print(f"{done.generation.id} serves")
