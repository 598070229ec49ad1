"""Whole installations for tests: wired in this process with the hash embedder, or as real server processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

import httpx

from indexes.model import Allowed, Filter
from ingest.connectors.push import PushConnector
from ingest.drafting import Drafting
from ingest.embed import EmbeddingPass
from ingest.model import Document, Parsed, Push, Version
from ingest.parse import registry
from ingest.pipeline import Pipeline
from ingest.run import Run
from ragsvc.answer import Answer, Question
from ragsvc.bootstrap import Service, build, chunker_of
from ragsvc.settings import Settings, load

T = TypeVar("T")
HASH = "hash:256"
EVERYTHING = Allowed.everything()
RAGSVC = Path(sys.executable).parent / "ragsvc"


def settings_in(folder: Path, **more: Any) -> Settings:
    """Settings of an installation in `folder` that needs no model."""
    return load(**{"data": folder, "embedder": HASH, **more})


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)  # time never stands still
        return self.now

    def on(self, **step: float) -> datetime:
        """Some time later."""
        self.now += timedelta(**step)
        return self.now


class ParsesHere:
    """The parsers themselves, without the jail's child process around them."""

    def parse(self, data: bytes, *, media_type: str | None, name: str, parser: str = "default") -> Parsed:
        return registry.parse(data, media_type=media_type, name=name, parser=parser)


@dataclass
class Workshop:
    """A wired service without threads: documents are pushed and questions asked at the times of `clock`."""

    service: Service
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.service.retriever._now = self.clock
        self.pipeline = Pipeline(self.service.catalog, parse_threads=1, clock=self.clock)

    def push(
        self,
        uri: str,
        text: str,
        *,
        collection: str = "handbook",
        access: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        valid_from: datetime | None = None,
        title: str | None = None,
    ) -> Document:
        """Ingest a Markdown document and return it."""
        catalog, service = self.service.catalog, self.service
        found = service.ensure_collection(collection)
        source = catalog.sources.push_source(found.id, now=self.clock())
        push = Push(
            source_id=source.id,
            uri=uri,
            blob_sha256=service.blobs.put(text.encode()),
            media_type="text/markdown",
            title=title,
            valid_from=valid_from,
            access=None if access is None else frozenset(access),
            metadata=dict(metadata or {}),
            pushed_at=self.clock(),
        )
        generation = catalog.collections.generation(found.generation_id)
        drafting = Drafting(
            source=source,
            connector=PushConnector(push, service.blobs),
            jail=ParsesHere(),
            chunker=chunker_of(generation.chunker),
            default_access=found.access,
            push=push,
        )
        run = Run()
        embedding = EmbeddingPass(service.embedder_of(generation.embedder), catalog.documents)
        self.pipeline.push(drafting, embedding, generation, run)
        assert not run.counts["failed"], catalog.dead_letters.of_source(source.id)
        document = catalog.documents.find(source.id, uri)
        assert document is not None
        return document

    def delete(self, document: Document) -> None:
        """Take a document out of force."""
        with self.service.catalog.write():
            self.service.catalog.recording.retire([document.id], now=self.clock())

    def versions(self, document: Document) -> tuple[Version, ...]:
        return self.service.catalog.documents.versions_of(document.id)

    def text(self, version_id: str) -> str:
        return self.service.catalog.documents.text(version_id).text

    def ask(
        self,
        text: str,
        *,
        collections: Sequence[str] = ("handbook",),
        allowed: Allowed = EVERYTHING,
        filter: Filter | None = None,
        return_insufficient: bool = True,
        **more: Any,
    ) -> Answer:
        """An answer; passages are given even where they hardly fit the question, unless a test says otherwise."""
        question = Question(
            text, allowed, tuple(collections), filter=filter, return_insufficient=return_insufficient, **more
        )
        return self.service.retriever.retrieve(question)


@contextmanager
def workshop(folder: Path, **more: Any) -> Iterator[Workshop]:
    """A writable installation in a folder."""
    with build(settings_in(folder, **more), writable=True) as service:
        yield Workshop(service)


@dataclass
class Server:
    """A real server process and what it printed."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **more)

    def stop(self, number: int = signal.SIGTERM, *, timeout_s: float = 20) -> int:
        """Send a signal, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


def environment(data: Path, **more: str) -> dict[str, str]:
    """The environment of a child: this one's, with its own data folder."""
    return {**os.environ, "RAGSVC_DATA": str(data), "RAGSVC_THREADS": "1", "COLUMNS": "200", **more}


def ragsvc(data: Path, *arguments: str, timeout_s: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [RAGSVC, *arguments], env=environment(data, **more), capture_output=True, text=True, timeout=timeout_s
    )


@contextmanager
def process(data: Path, *arguments: str, ready: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process that has said that it is ready; killed at the end if it still runs."""
    child = subprocess.Popen(
        [RAGSVC, *arguments], env=environment(data, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    said: Queue[str] = Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            said.put(line)
        child.stdout.close()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                if ready in said.get(timeout=0.1):
                    break
            except Empty:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{arguments} did not begin:\n{''.join(lines)}") from None
        yield child, lines
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(10)
        reader.join(5)


@contextmanager
def server(data: Path, command: str = "up", *arguments: str, **more: str) -> Iterator[Server]:
    """`ragsvc up` or `ragsvc serve` on a free port."""
    with process(data, command, "--port", "0", *arguments, ready="answers on", **more) as (child, lines):
        found = re.search(r"http://\S+", "".join(lines))
        assert found is not None
        yield Server(child, found[0], lines)


def until(look: Callable[[], T], *, timeout_s: float = 15, every_s: float = 0.1) -> T:
    """The first true thing that `look` gives."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing within {timeout_s} s")
        time.sleep(every_s)
