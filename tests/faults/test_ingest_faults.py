"""Numbers 9, 15, 16, 19, 20 and 21: ingestion under faults, with real files, processes and threads."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pysqlite3
import pytest

from indexes.analyze import analyzer_of
from indexes.errors import WriterBusy
from ingest.blobs import FolderBlobStore
from ingest.connectors.files import file_uri
from ingest.drafting import ParsesSafely
from ingest.errors import CatalogUnsafe
from ingest.ingestion import Ingestion, open_connector
from ingest.model import Parsed, Source
from ingest.parse.jail import Jail, JailLimits
from ingest.pipeline import Pipeline
from ingest.reindex import Reindexing
from ingest.watch import Watch
from ingest.worker import Worker
from ragsvc.bootstrap import WriterLock, build
from ragsvc.settings import Settings
from tests.contracts.ingest_parts import Clock, InProcess, Installation, write
from tests.contracts.killable import Killable
from tests.faults.ingest_churn import content

SETTLE_S = 1.0


def ingestion(app: Installation) -> Ingestion:
    blobs = FolderBlobStore(app.folder / "blobs")
    parts = (lambda _: app.embedder, lambda _: app.chunker)
    reindexing = Reindexing(app.catalog, app.follower, *parts, analyzer_of, lambda *_: None, writable=True)
    return Ingestion(app.catalog, app.follower, app.jail, blobs, *parts, app.pipeline, reindexing)


@contextlib.contextmanager
def running(app: Installation) -> Iterator[Worker]:
    """Worker and watch as `ragsvc up` runs them."""
    worker = Worker(app.catalog, ingestion(app).handlers(), threads=2)
    watch = Watch(app.catalog, open_connector)
    worker.start()
    watch.start()
    try:
        yield worker
    finally:
        watch.stop()
        worker.stop()


def until(ready: Callable[[], bool], timeout_s: float) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < timeout_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began


def sentences(docs: Path) -> set[str]:
    return {s + "." for path in docs.iterdir() for s in path.read_text().replace("\n\n", " ").rstrip(".").split(". ")}


# ---------------------------------------------------------------- 9


@pytest.fixture
def twenty(tmp_path: Path) -> Path:
    for number in range(20):
        write(tmp_path / "docs" / f"doc{number:02}.txt", content(f"doc{number:02}", 0))
    return tmp_path / "docs"


def test_a09_idempotence_the_same_job_three_times(tmp_path: Path, twenty: Path) -> None:
    app = Installation(tmp_path / "data")
    source = app.folder_source(twenty)
    worker = Worker(app.catalog, ingestion(app).handlers())
    tables, logs, embeds = [], [], []
    for _ in range(3):
        app.embedder.texts.clear()
        job = app.catalog.jobs.enqueue("sync", now=app.clock(), source_id=source.id)
        assert worker.work_once()
        assert app.catalog.jobs.get(job.id).state == "succeeded"
        tables.append(app.chunk_table())
        logs.append(app.catalog.changes.last_seq())
        embeds.append(len(app.embedder.texts))
    assert len(tables[0]) >= 40
    assert tables[0] == tables[1] == tables[2]
    assert logs[0] == logs[1] == logs[2]
    assert embeds == [len(sentences(twenty)), 0, 0]
    app.close()


@pytest.mark.slow
def test_a09_idempotence_killed_at_twenty_points(tmp_path: Path, twenty: Path, root: Path) -> None:
    clean = Installation(tmp_path / "clean")
    clean.sync(clean.folder_source(twenty))
    expected, every = clean.chunk_table(), sentences(twenty)
    assert set(clean.embedder.texts) == every
    clean.close()
    empty = Installation(tmp_path / "empty")  # schema, collection and source are there before the first kill
    empty.folder_source(twenty)
    empty.close()
    partly = 0
    with Killable("tests.faults.ingest_churn", root) as worker:
        for point in range(20):
            data = tmp_path / f"data{point}"
            shutil.copytree(tmp_path / "empty", data)
            # Commit 1 looks at the collection; 2 to 11 record two documents each.
            worker.begin(
                what="ingest", folder=str(data), docs=str(twenty), die_at=2 + point // 2, before=point % 2 == 0
            )
            lines, status = worker.rest()
            assert (lines, status) == ([], 9)
            app = Installation(data)
            source = app.folder_source(twenty)
            recorded = len(app.catalog.documents.of_source(source.id))
            assert recorded == 2 * (point // 2 + point % 2), "a batch is there whole or not at all"
            partly += 0 < recorded < 20
            run = app.sync(source)
            assert (run.counts["unchanged"], run.counts["new"]) == (recorded, 20 - recorded)
            assert len(app.embedder.texts) == len(every) * (20 - recorded) // 20, "what was recorded costs nothing"
            assert app.chunk_table() == expected
            if point % 5 == 0:
                app.embedder.texts.clear()
                assert app.sync(source).counts["unchanged"] == 20
                assert app.embedder.texts == []
                assert app.follower.check(app.generation) == ()
            app.close()
            shutil.rmtree(data)
    assert partly >= 15


# ---------------------------------------------------------------- 15


def test_a15_sqlite_that_loses_commits_is_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysqlite3, "sqlite_version_info", (3, 51, 2))
    settings = Settings(data=tmp_path / "data", embedder="hash:64")
    for writable in (True, False):
        with pytest.raises(CatalogUnsafe, match=r"3\.51\.2") as caught:
            build(settings, writable=writable)
        assert "pysqlite3" in caught.value.hint


HOLDER = """
import sys
from pathlib import Path
from ragsvc.bootstrap import WriterLock
from ragsvc.settings import Settings
settings = Settings(data=Path(sys.argv[1]))
lock = WriterLock(settings)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a15_a_second_process_on_the_data_folder_is_refused_at_once(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    command = [sys.executable, "-c", HOLDER, str(settings.data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(WriterBusy, match=f"Process {first.pid} "):
            WriterLock(settings)
        assert time.monotonic() - began < 1
        first.kill()
    WriterLock(settings).release()  # a killed process holds nothing
    WriterLock(settings).release()


# ---------------------------------------------------------------- 16


class Writer(threading.Thread):
    """Writes one file in one of four ways; knows what may be seen of it and when it wrote last."""

    def __init__(self, path: Path, way: int, chooser: random.Random) -> None:
        super().__init__(daemon=True)
        self.path, self.way = path, way
        name = path.stem
        self.parts = [f"Line {n} of {name} is complete.\n\n" for n in range(6)]
        self.old = f"The old content of {name}.\n" * 30
        self.delay = chooser.uniform(0, 2.5)
        self.allowed = {self._sha("".join(self.parts))}
        self.last = 0.0

    @staticmethod
    def _sha(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    def run(self) -> None:
        if self.way == 2:
            self.path.write_text(self.old)
            self.allowed.add(self._sha(self.old))
        time.sleep(self.delay)
        if self.way == 3:  # written aside, renamed in
            aside = self.path.with_suffix(".part")
            aside.write_text("".join(self.parts[:3]))
            time.sleep(0.3)
            aside.write_text("".join(self.parts))
            aside.rename(self.path)
        else:
            pause_s = {0: 0.15, 1: 0.02, 2: 0.1}[self.way]
            with self.path.open("w") as file:  # way 2: truncated first
                for number, part in enumerate(self.parts):
                    file.write(part)
                    file.flush()
                    wrote = time.monotonic()
                    time.sleep(SETTLE_S + 0.6 if self.way == 1 and number == 2 else pause_s)
                    if time.monotonic() - wrote >= SETTLE_S * 0.9:  # meant to, or this machine was held up
                        self.allowed.add(self._sha("".join(self.parts[: number + 1])))
            self.path.touch()
        self.last = time.monotonic()


@pytest.mark.slow
def test_a16_half_written_files_are_never_served(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    chooser = random.Random(3)
    writers = {f: Writer(docs / f"file{f:03}.txt", f % 4, chooser) for f in range(100)}
    with Jail(workers=2) as jail:
        app = Installation(tmp_path / "data", jail=jail)
        source = app.source(file_uri(docs), options={"settle_s": SETTLE_S}, watch=True)
        late: dict[str, float] = {}
        seen: dict[str, set[str]] = {}
        with running(app):
            for writer in writers.values():
                writer.start()
            waiting = {file_uri(writer.path): writer for writer in writers.values()}
            deadline = time.monotonic() + 40
            while waiting and time.monotonic() < deadline:
                served = {uri: d.content_sha256 for uri, d in app.catalog.documents.of_source(source.id).items()}
                for uri, writer in list(waiting.items()):
                    if uri in served:
                        seen.setdefault(uri, set()).add(served[uri])
                    if writer.last and served.get(uri) == hashlib.sha256(writer.path.read_bytes()).hexdigest():
                        late[uri] = time.monotonic() - writer.last
                        del waiting[uri]
                time.sleep(0.05)
        assert waiting == {}
        assert max(late.values()) <= 5, f"served {max(late.values()):.1f} s after the last write"
        for writer in writers.values():
            uri = file_uri(writer.path)
            assert seen[uri] <= writer.allowed, f"{uri} was read half-written (way {writer.way})"
            assert len(app.versions(app.document(source, uri))) <= len(writer.allowed)
        paused = [w for w in writers.values() if w.way == 1]
        assert any(len(seen[file_uri(w.path)]) == 2 for w in paused), "no pause was long enough to be settled"
        assert app.catalog.dead_letters.of_source(source.id) == {}
        assert app.follower.check(app.generation) == ()
        app.close()


# ---------------------------------------------------------------- 19


def poison(docs: Path) -> set[str]:
    files = {
        "broken.pdf": b"%PDF-1.7\n1 0 obj << /Type /Catalog >>\n" + b"\0\xff" * 500,
        "empty.txt": b"",
        "binary.txt": bytes(range(256)) * 40,
        "broken.docx": b"PK\x03\x04" + b"not a zip" * 99,
        "endless.md": b"[" * 400_000 + b"*_" * 200_000,
    }
    for name, data in files.items():
        write(docs / name, data)
    return {file_uri(docs / name) for name in files}


class Sampled:
    """The jail for every tenth sound document and for all that is not sound; a thousand of its forks take 20 s."""

    def __init__(self, jail: Jail) -> None:
        self._jail, self._plain = jail, InProcess()

    def parse(self, data: bytes, *, media_type: str | None, name: str, parser: str = "default") -> Parsed:
        sound = name.startswith("doc") and not name.endswith("0.txt")
        chosen: ParsesSafely = self._plain if sound else self._jail
        return chosen.parse(data, media_type=media_type, name=name, parser=parser)


@pytest.mark.slow
def test_a19_poison_among_a_thousand_documents(tmp_path: Path) -> None:
    docs, clock = tmp_path / "docs", Clock()
    for number in range(995):
        write(docs / f"{number % 10}" / f"doc{number:03}.txt", f"Rule number {number} of the house.")
    expected = poison(docs)
    with Jail(JailLimits(timeout_s=1, memory_mb=256), workers=2) as jail:
        app = Installation(tmp_path / "data", jail=Sampled(jail), clock=clock)
        app.pipeline = Pipeline(app.catalog, parse_threads=2, clock=clock)
        source = app.folder_source(docs)
        worker = Worker(app.catalog, ingestion(app).handlers(), clock=clock)
        first = app.catalog.jobs.enqueue("sync", now=clock(), source_id=source.id)
        runs = 0
        while True:  # until no appointment is left
            while worker.work_once():
                runs += 1
            if not app.catalog.jobs.page(limit=5, state="queued")[0]:
                break
            clock.go(seconds=1)
        job = app.catalog.jobs.get(first.id)
        assert (job.state, job.counts["new"], job.counts["failed"]) == ("succeeded", 995, 5)
        assert len(app.served(source)) == 995
        letters = app.catalog.dead_letters.of_source(source.id)
        assert letters.keys() == expected
        for letter in letters.values():
            assert letter.attempts <= 3
            assert letter.retry_at is None
            assert letter.reason
            assert letter.hint
        assert 1 <= max(letter.attempts for letter in letters.values()) <= 3
        assert runs <= 4
        assert (clock.now - timedelta(seconds=120)) < letters[file_uri(docs / "endless.md")].last_at
        assert len(app.find("rule number 777")) > 0
        write(docs / "empty.txt", "Not empty any more: giraffes.")
        app.catalog.jobs.enqueue("sync", now=clock(), source_id=source.id)
        assert worker.work_once(), "the worker survived"
        assert len(app.find("giraffes")) == 1
        app.close()


# ---------------------------------------------------------------- 20


def test_a20_rename_of_a_hundred_files_is_never_noticed_by_a_reader(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for number in range(100):
        write(docs / "old" / f"doc{number:03}.txt", f"The unique word is token{number:03}. Nothing else matters.")
    app = Installation(tmp_path / "data")
    source = app.folder_source(docs)
    app.sync(source)
    before = {d.id: app.versions(d) for d in app.catalog.documents.of_source(source.id).values()}
    expected = {f"token{number:03}": app.find(f"token{number:03}") for number in range(100)}
    assert all(len(found) == 1 for found in expected.values())
    app.embedder.texts.clear()
    stop, wrong = threading.Event(), []
    looks = 0

    def read() -> None:
        nonlocal looks
        chooser = random.Random(5)
        while not stop.is_set():
            token = chooser.choice(sorted(expected))
            if app.find(token) != expected[token]:
                wrong.append(token)
            looks += 1

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(3):  # all at once, then one by one while syncs run
        if step == 0:
            (docs / "old").rename(docs / "new")
        else:
            (docs / f"place{step}").mkdir()
            for path in sorted((docs / ("new" if step == 1 else "place1")).iterdir()):
                path.rename(docs / f"place{step}" / f"{step}-{path.name}")
                if path.name.endswith("50.txt"):
                    app.sync(source)
        run = app.sync(source)
        assert (run.counts["new"], run.counts["deleted"], run.counts["failed"]) == (0, 0, 0)
    stop.set()
    reader.join()
    assert looks > 20
    assert wrong == []
    assert app.embedder.texts == []
    after = app.catalog.documents.of_source(source.id)
    assert {d.id: app.versions(d) for d in after.values()} == before
    assert all("/place2/2-1-doc" in uri for uri in after)
    assert app.follower.check(app.generation) == ()
    app.close()


# ---------------------------------------------------------------- 21


def current(app: Installation, source: Source, uri: str) -> str | None:
    document = app.catalog.documents.of_source(source.id).get(uri)
    return None if document is None else document.current_version_id


def test_a21_delete_and_edit_reach_the_answers(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for number in range(5):
        write(docs / f"doc{number}.txt", f"The unique word is token{number}.")
    app = Installation(tmp_path / "data")
    source = app.source(file_uri(docs), options={"settle_s": 0.2}, watch=True)
    with running(app):
        until(lambda: all(app.find(f"token{number}") for number in range(5)), 20)
        time.sleep(0.5)  # the watch has begun
        (docs / "doc1.txt").unlink()
        assert until(lambda: app.find("token1") == [], 20) <= 5
        uri = file_uri(docs / "doc2.txt")
        for number in range(3):
            before = current(app, source, uri)
            write(docs / "doc2.txt", f"The unique word is token2, edition {number}.", age_s=0.3 - number / 100)
            until(lambda before=before: current(app, source, uri) not in (before, None), 20)  # acknowledged
            acked = current(app, source, uri)
            for _ in range(10):
                assert app.find("token2") == [acked], "the old version was found after the new one's ack"
    assert app.find("token1") == []
    assert len(app.versions(app.document(source, uri))) == 4
    app.close()
