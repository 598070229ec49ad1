"""What the killed processes of test_a01_kill_nine.py and test_ingest_faults.py do. No test itself."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from indexes.analyze import detect_language
from ingest import pipeline
from tests.contracts.ingest_parts import Installation, write

detect_language("Loaded once, before the first fork: each killed process would load it again.")
NAMES = [f"doc{number:02}" for number in range(14)]


def content(name: str, step: int) -> str:
    """A text of several chunks; each sentence says whose and which it is, so that a torn one can be told."""
    return "\n\n".join(
        " ".join(f"Sentence {n} of part {part} of {name} in state{step}x is here." for n in range(9))
        for part in range(4)
    )


def main(*, what: str, **arguments: Any) -> None:
    """Begin one of the acts below."""
    {"churn": churn, "ingest": ingest}[what](**arguments)


def churn(folder: str, docs: str, seed: int, first: int) -> None:
    """Change files, sync, print `ack` after each commit, publish and merge often; until killed."""
    pipeline._BATCH_DRAFTS = 2
    app = Installation(Path(folder))
    source = app.folder_source(Path(docs))
    app.sync(source)
    print("ack", flush=True)
    chooser = random.Random(seed)
    for step in itertools.count(first):
        changes: dict[str, str | None] = {}
        for name in chooser.sample(NAMES, chooser.randint(1, 5)):
            exists = (Path(docs) / f"{name}.txt").exists()
            changes[name] = None if exists and chooser.random() < 0.3 else content(name, step)
        print("step", json.dumps(changes), flush=True)
        for name, text in changes.items():
            place = Path(docs) / f"{name}.txt"
            if text is None:
                place.unlink(missing_ok=True)
            else:  # renamed in: a torn file would be the writer's doing
                write(Path(docs) / f".{name}", text).rename(place)
        app.sync(source)
        print("ack", flush=True)
        act = chooser.random()
        if act < 0.4:
            app.follower.publish()
        elif act < 0.8:
            app.find(NAMES[step % len(NAMES)])


def ingest(folder: str, docs: str, die_at: int, before: bool) -> None:
    """One sync that dies just before or just after a commit."""
    pipeline._BATCH_DRAFTS = 2
    real, commits = sa.Connection.commit, itertools.count(1)

    def commit(self: sa.Connection) -> None:
        number = next(commits)
        if number == die_at and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self)
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.Connection.commit = commit  # type: ignore[method-assign]
    app = Installation(Path(folder))
    app.sync(app.folder_source(Path(docs)))
    app.follower.publish()
    print("done", next(commits), flush=True)
