"""The acts of test_a03_failpoints.py, in processes that are killed at one point of them. No test itself.

A point is a step of indexes/durable.py (before and after each write, sync, rename, deletion and new folder, BEGIN and
COMMIT) or a statement that changes the catalogue. Points are told apart by act, step and kind of file.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import sqlalchemy as sa

from indexes import durable
from ingest import pipeline
from ingest.blobs import FolderBlobStore
from ingest.catalog.catalog import Catalog
from ingest.ingestion import Ingestion
from ingest.model import Push
from ingest.worker import Worker
from tests.contracts.ingest_parts import Installation, database_url, write
from tests.faults.ingest_churn import NAMES, State, content, look, on_disk

_CHANGES = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM|CREATE(?: UNIQUE)? \w+)\s+(\w+)")
HANGS_S = 120
PUSHED, PROMISED = "pushed.txt", "promised"


def main(*, what: str, **arguments: Any) -> None:
    """Begin one of the acts below, without waiting for the disk: nobody pulls the plug here."""
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(HANGS_S)
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    sa.event.listen(sa.Engine, "checkout", lambda conn, *_: conn.execute("PRAGMA synchronous=OFF"))
    pipeline._BATCH_DRAFTS = 2
    {"prepare": prepare, "record": record, "survive": survive}[what](**arguments)


# ---------------------------------------------------------------- points


def kind_of(path: Path) -> str:
    """The path without what is different each time; what is inside a segment that is deleted is one kind."""
    found = re.sub(r"^.*?/data(?=/|$)", "", path.as_posix())
    found = re.sub(r"(seg|gen)_[0-9a-z]+", r"\1", found)
    return re.sub(r"[0-9a-f]{8,}|(?<=blobs/)[0-9a-f]{2}", "#", found)


def point_of(act: str, step: str, path: Path) -> str:
    """The name of a point. A statement is the same in every act."""
    if path.name == "catalog.db":
        return f"catalogue: {step}"
    kind = kind_of(path)
    if step.startswith("delete"):
        kind = re.sub(r"(segments/[^/]+/).*", r"\1*", kind)
    return f"{act}: {step} {kind}"


def watch(act: str, see: Callable[[str], None]) -> None:
    """Let `see` have the name of each point that is reached from now on."""
    durable.reached = lambda step, path: see(point_of(act, step, path))
    for event, mark in (("before_cursor_execute", ""), ("after_cursor_execute", " done")):

        def statement(conn: Any, cursor: Any, sql: str, *rest: Any, mark: str = mark) -> None:
            if found := _CHANGES.match(sql):
                verb, table = found.groups()
                step = verb if "CREATE" in verb else f"{verb} {table}"
                durable.reached(f"{step}{mark}", Path("catalog.db"))

        sa.event.listen(sa.Engine, event, statement)


def record(act: str, data: str, docs: str) -> None:
    """One act to its end; prints how often each point was reached, in order of the first time."""
    seen: Counter[str] = Counter()
    perform(act, Path(data), Path(docs), lambda: watch(act, lambda point: seen.update([point])))
    print("points", json.dumps(seen), flush=True)


def survive(act: str, data: str, docs: str, acked: State, tries: list[tuple[str, int]], keep: bool = False) -> None:
    """Kill the act at each of these points, each time on a copy; open what is left, look, end the act, look again.

    What leaves the same files with the same sizes is looked at once. `keep` leaves the copy, and looks at nothing.
    """
    left: dict[object, tuple[str, Path]] = {}
    for number, (point, nth) in enumerate(tries):
        copy = Path(shutil.copytree(data, f"{data}-{os.getpid()}-{number}/data"))
        killed(act, copy, Path(docs), point, nth)
        state = [(kind_of(path), path.stat().st_size) for path in copy.parent.rglob("*") if path.is_file()]
        if left.setdefault(tuple(sorted(state)), (point, copy))[1] != copy:
            shutil.rmtree(copy.parent)
    for point, copy in () if keep else left.values():  # no fork from here on: threads have run
        try:
            after(act, copy, Path(docs), acked)
        except BaseException:
            print("not survived:", point, flush=True)
            raise
        shutil.rmtree(copy.parent)
    print("states", json.dumps([str(copy) for _, copy in left.values()]), flush=True)


def killed(act: str, data: Path, docs: Path, point: str, nth: int) -> None:
    """One act in a process of its own, until it is killed where it reaches a point for the n-th time."""
    seen: Counter[str] = Counter()

    def see(reached: str) -> None:
        seen.update([reached])
        if seen[point] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        signal.alarm(HANGS_S // 2)
        try:
            perform(act, data, docs, lambda: watch(act, see))
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGKILL, f"{point!r} was not reached {nth} times"


def after(act: str, data: Path, docs: Path, acked: State) -> None:
    """Open what a kill left: all is there. Then end what was begun, and look again."""
    wanted = on_disk(docs)
    pushes = [acked.get(PUSHED), content(PUSHED, 2)] if act == "push" else [acked.get(PUSHED)]
    app = Installation(data)
    if act == "recover damaged":
        mend(app)
    look(app, docs, acked, wanted)
    assert pushed(app) in pushes, "the pushed document is lost, torn or resurrected"
    app.sync(app.folder_source(docs))
    work(app)
    if (data / PROMISED).exists():
        assert pushed(app) == pushes[1], "a push that was promised is lost"
    app.follower.publish()
    look(app, docs, wanted, {})
    assert pushed(app) in pushes
    app.close()
    left = [path for path in (data / "indexes").rglob("*") if path.name.startswith(durable.ASIDE)]
    assert left == [], "what a crash left was not cleared away"


# ---------------------------------------------------------------- acts


def perform(act: str, data: Path, docs: Path, begin: Callable[[], None]) -> None:
    """An act on an installation; `begin` is called when what leads to it is done."""
    if act == "create":
        begin()
        Catalog(database_url(data)).close()
        return
    if act.startswith("recover"):
        begin()
    app = Installation(data)
    source = app.folder_source(docs)
    if not act.startswith("recover"):
        app.follower.pin(app.generation.id)
        begin()
    if act == "push":
        push(app, content(PUSHED, 2))
        work(app)
    elif act == "repair":
        app.follower.rebuild(app.generation)
    elif act in ("add", "change"):
        app.sync(source)
    elif act.startswith("recover"):
        mend(app)
    else:  # publish, merge
        app.follower.publish()
    app.close()


def mend(app: Installation) -> None:
    """Open the index, and wait until what is damaged was made anew; meanwhile exact search answers."""
    deadline = monotonic() + HANGS_S / 4
    app.follower.pin(app.generation.id)
    while problems := app.follower.check(app.generation):
        assert monotonic() < deadline, f"it did not mend itself: {problems}"
        sleep(0.01)


def pushed(app: Installation) -> str | None:
    """The text in force of the one document that is pushed."""
    source = app.catalog.sources.push_source(app.collection.id, now=datetime.now(UTC))
    return app.served(source).get(PUSHED)


def push(app: Installation, text: str) -> None:
    """What PUT /v1/documents does; leaves a file where it would answer."""
    blobs = FolderBlobStore(app.folder / "blobs")
    sha256, now = blobs.put(text.encode()), datetime.now(UTC)
    with app.catalog.write():
        source = app.catalog.sources.push_source(app.collection.id, now=now)
        pushed = Push(source.id, PUSHED, sha256, "text/plain", None, None, None, {}, now)
        app.catalog.sources.put_push(pushed)
        app.catalog.jobs.enqueue("push", now=now, source_id=source.id, payload={"uri": PUSHED})
    (app.folder / PROMISED).touch()


def work(app: Installation) -> None:
    """Do all jobs, as a worker does that starts when the leases of the dead one have ended."""
    parts = {
        "catalog": app.catalog,
        "follower": app.follower,
        "jail": app.jail,
        "blobs": FolderBlobStore(app.folder / "blobs"),
        "embedder_of": lambda _: app.embedder,
        "chunker_of": lambda _: app.chunker,
        "pipeline": app.pipeline,
    }
    needed = [field.name for field in fields(Ingestion) if field.default is MISSING]
    ingestion = Ingestion(**{name: parts.get(name) for name in needed})  # type: ignore[arg-type]  # pushes need no more
    later = timedelta(minutes=5)
    worker = Worker(app.catalog, {"push": ingestion.push}, clock=lambda: datetime.now(UTC) + later)
    while worker.work_once():
        pass


def edit(docs: Path, changes: State) -> None:
    """Change, add and delete files."""
    for name, text in changes.items():
        if text is None:
            (docs / f"{name}.txt").unlink()
        else:
            write(docs / f"{name}.txt", text)


def prepare(act: str, data: str, docs: str) -> None:
    """The installation and the documents as they are when an act begins; prints what is acknowledged by then."""
    place = Path(docs)
    app = None if act == "create" else Installation(Path(data))
    acked: State = dict.fromkeys(NAMES)
    for number, step in enumerate(() if app is None else STEPS[: STEPS.index(f"-> {act.split()[0]}")]):
        assert app is not None
        source = app.folder_source(place)
        if step == "sync":
            app.sync(source)
            acked |= on_disk(place)
        elif step == "publish":
            app.follower.publish()
        elif step == "push":
            push(app, content(PUSHED, 1))
            work(app)
            acked[PUSHED] = content(PUSHED, 1)
            (app.folder / PROMISED).unlink()
        elif isinstance(step, tuple):
            edit(place, {name.strip("-"): None if name[0] == "-" else content(name, number) for name in step})
    if app is not None:
        app.close()
    print("acked", json.dumps(acked), flush=True)


STEPS: list[str | tuple[str, ...]] = [
    *(tuple(NAMES[:6]), "-> add", "sync", "-> publish", "publish"),
    *((NAMES[0], NAMES[6], "-" + NAMES[1]), "-> change", "sync", "push", "-> push", "publish"),
    # With the two segments that are there and one more, the next publication is followed by a merge.
    *((NAMES[2],), "sync", "publish", (NAMES[3], "-" + NAMES[4]), "sync", "-> merge", "-> recover", "-> repair"),
]
"""What happens in the life of the installation, and where the acts begin. A tuple edits files; `-` deletes."""
