"""The command line. Exit status: 0, 1 (it failed), 2 (wrong usage)."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from indexes.errors import RagsvcError
from ragsvc import cli_admin, cli_backup, cli_reindex, cli_sources
from ragsvc.cli_shared import (
    BadUsage,
    EmbedderOption,
    HostOption,
    PortOption,
    WorkersOption,
    console,
    opened,
    ready_settings,
)
from ragsvc.options import option

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A RAG knowledge service: versioned documents in, a small grounded context with citations out.",
)
cli_sources.register(app)
cli_admin.register(app)
cli_reindex.register(app)
cli_backup.register(app)


@app.command()
def up(
    host: HostOption = None,
    port: PortOption = None,
    serve_workers: WorkersOption = None,
    embedder: EmbedderOption = None,
    sample: Annotated[bool, option("--sample", help="Add the sample handbook and print a question to try.")] = False,
) -> None:
    """Run everything: API, scheduler and worker, in one process or with others that answer."""
    from ragsvc.bootstrap import Backstage, build
    from ragsvc.serving import check_address, serve
    from ragsvc.workers import serve_many

    found = ready_settings(host=host, port=port, embedder=embedder, serve_workers=serve_workers)
    with build(found, writable=True) as service:
        check_address(service)
        service.embedder_of(service.settings.embedder)  # a missing model is said before anything starts
        if sample:
            cli_sources.add_sample(service)
        run = serve if found.serve_workers == 1 else serve_many
        run(service, backstage=Backstage(service), ready=lambda url: _say_ready(url, sample=sample))


@app.command()
def serve(host: HostOption = None, port: PortOption = None, serve_workers: WorkersOption = None) -> None:
    """Run the API alone, beside a `ragsvc work` or `ragsvc up` on the same data."""
    from ragsvc.bootstrap import build
    from ragsvc.serving import serve as serve_here
    from ragsvc.workers import serve_many

    found = ready_settings(host=host, port=port, serve_workers=serve_workers)
    with build(found, writable=False) as service:
        run = serve_here if found.serve_workers == 1 else serve_many
        run(service, ready=lambda url: _say_ready(url, sample=False))


@app.command()
def work() -> None:
    """Run scheduler and worker alone: they ingest, `ragsvc serve` answers."""
    import signal
    import threading

    from ragsvc.bootstrap import Backstage, build

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with build(ready_settings(), writable=True) as service:
        backstage = Backstage(service)
        backstage.start()
        console.print("working; stop with Ctrl-C")
        ended.wait()
        backstage.stop()


@app.command()
def retrieve(
    question: str,
    collection: Annotated[list[str] | None, option("--collection", help="Collection to ask (default: all).")] = None,
    top_k: Annotated[int, option("--top-k", help="Passages at most.", min=1, max=100)] = 8,
    max_tokens: Annotated[int, option("--max-tokens", help="Tokens of the context at most.", min=1)] = 1024,
    tokenizer: Annotated[str, option("--tokenizer", help="Tokenizer that counts.")] = "o200k_base",
    mode: Annotated[str, option("--mode", help="hybrid, dense or lexical.")] = "hybrid",
    as_of: Annotated[str | None, option("--as-of", help="Document time, such as 2026-03-01T00:00:00Z.")] = None,
    filters: Annotated[str | None, option("--filters", help="Filter as JSON, as POST /v1/retrieve takes it.")] = None,
    json: Annotated[bool, option("--json", help="The response of POST /v1/retrieve, for machines.")] = False,
) -> None:
    """Answer a question: context, citations and freshness."""
    from ragsvc import schemas, views
    from ragsvc.auth import OWNER
    from ragsvc.routes.retrieve import question_of
    from ragsvc.showing import show_answer

    try:
        body = {
            "query": question,
            "collections": collection or None,
            "top_k": top_k,
            "max_tokens": max_tokens,
            "tokenizer": tokenizer,
            "mode": mode,
            "as_of": as_of,
            "filters": None if filters is None else jsonlib.loads(filters),
        }
        asked = schemas.RetrieveRequest.model_validate(body)
    except (ValidationError, jsonlib.JSONDecodeError) as error:
        raise BadUsage(str(error)) from error
    with opened(writable=False) as service:
        answer = service.retriever.retrieve(question_of(asked, OWNER, service))
    if json:
        sys.stdout.write(jsonlib.dumps(views.answer(answer, explain=False, dropped=True), ensure_ascii=False) + "\n")
    else:
        show_answer(answer, console)


@app.command()
def eval(
    dataset: Path,
    floor: Annotated[float | None, option("--floor", help="Fail if hybrid nDCG@10 is lower.")] = None,
    embedder: EmbedderOption = None,
    json: Annotated[bool, option("--json", help="The figures for machines.")] = False,
) -> None:
    """Measure retrieval on a data set in BEIR layout: nDCG@10, recall and MRR of each mode."""
    from ragsvc.evaluate import evaluate

    figures: dict[str, Any] = evaluate(dataset, ready_settings(embedder=embedder), say=None if json else console)
    if json:
        sys.stdout.write(jsonlib.dumps(figures) + "\n")
    if floor is not None and figures["modes"]["hybrid"]["nDCG@10"] < floor:
        raise RagsvcError(f"nDCG@10 is {figures['modes']['hybrid']['nDCG@10']:.4f}, under the floor of {floor}.")


def _say_ready(url: str, *, sample: bool) -> None:
    console.print(f"ragsvc answers on {url}  (stop with Ctrl-C)")
    if sample:
        ask = f"""curl -s {url}/v1/retrieve -H 'Content-Type: application/json' \\
  -d '{{"query": "how long is the notice period?"}}'"""
        console.print(f"try:\n{ask}", highlight=False, soft_wrap=True)


def main() -> NoReturn:
    """The entry point: errors say what to do, without a trace."""
    error_console = Console(stderr=True)
    try:
        app(standalone_mode=True)
    except BadUsage as error:
        error_console.print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        raise SystemExit(2) from error
    except ValidationError as error:
        for one in error.errors():
            name = "RAGSVC_" + "_".join(str(part) for part in one["loc"]).upper()
            error_console.print(f"[red]error:[/] {name}: {escape(one['msg'])}", highlight=False)
        raise SystemExit(2) from error
    except RagsvcError as error:
        said, todo = escape(error.message), escape(error.hint)
        error_console.print(f"[red]error:[/] {said}\n[yellow]what to do:[/] {todo}", highlight=False)
        raise SystemExit(1) from error
    raise SystemExit(0)
