"""What people see on a terminal: an answer, and a job while it runs."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ingest.model import Job
from ragsvc.answer import Answer

_ENDED = ("succeeded", "failed", "cancelled")
_LOOK_S = 0.2
_COLOURS = {"fresh": "green", "stale": "yellow", "unverified": "yellow", "superseded": "magenta"}


def show_answer(answer: Answer, console: Console) -> None:
    """Context, then one line per citation, then what it cost."""
    console.print(Text(answer.context or "Nothing here answers that."))
    console.print()
    for result in answer.results:
        status = result.freshness.status
        line = Text(f"[{result.passage.ref}] ", style="bold")
        line.append(f"{result.document.uri}  v{result.version.ordinal}  ")
        line.append(status, style=_COLOURS.get(status, "red"))
        line.append(f"  score {result.fused:.2f}  {result.id}", style="dim")
        console.print(line, soft_wrap=True)
    usage, verdict = answer.usage, answer.sufficiency.verdict
    saved = usage.baseline_tokens - usage.context_tokens
    console.print(
        f"{verdict}; {usage.context_tokens} tokens, {saved} fewer than {usage.baseline}; "
        f"{answer.timings_ms['total']:.0f} ms; {answer.state.id}",
        style="dim",
        soft_wrap=True,
    )


def follow_job(job_id: str, get: Callable[[str], Job], console: Console) -> Job:
    """A progress bar (files, chunks, tokens embedded, ETA) until the job has ended."""
    with Progress(
        TextColumn("{task.fields[stage]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[chunks]} chunks  {task.fields[tokens]} tokens embedded"),
        TimeRemainingColumn(),
        console=console,
        transient=not console.is_terminal,
    ) as progress:
        task = progress.add_task("job", total=None, stage="queued", chunks=0, tokens=0)
        while True:
            job = get(job_id)
            seen = job.progress
            progress.update(
                task,
                completed=seen.get("done", 0),
                total=seen.get("total"),
                stage=str(seen.get("stage", job.state)),
                chunks=seen.get("chunks", 0),
                tokens=seen.get("tokens", 0),
            )
            if job.state in _ENDED:
                return job
            sleep(_LOOK_S)
