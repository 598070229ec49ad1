"""Where are generations stored and searched? The default Engine: segments on local disk, one folder per generation.

<folder>/writer.lock           held by the one process that writes
<folder>/<generation id>/      see snapshot.py
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path

from indexes import durable
from indexes.audit import check_generation
from indexes.errors import GenerationUnknown
from indexes.hybrid import HybridSearcher
from indexes.model import DENSE_DEFAULTS, DenseOptions, Generation, Problem
from indexes.writer import EmbeddedWriter

LOCK = "writer.lock"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


class EmbeddedEngine:
    """All generations under one folder. Safe to use from many threads; one process at a time may write."""

    def __init__(self, folder: Path, options: DenseOptions = DENSE_DEFAULTS) -> None:
        self._folder = folder
        self._options = options
        self._open: dict[str, EmbeddedWriter] = {}
        self._lock = threading.Lock()
        self._writing: int | None = None

    def open(self, generation: Generation, *, writable: bool) -> EmbeddedWriter:
        """Load a generation or begin an empty one; one that is open already is given again.

        What cannot be loaded is listed in the writer's `problems` and left out: the change log from `seq` on
        brings it back. Without `writable` the writer takes changes in memory only, and `refresh`es.
        Raises WriterBusy, StorageFailed.
        """
        with self._lock:
            known = self._open.get(generation.id)
            if known is not None and known.generation == generation and (known.writable or not writable):
                return known
            folder = self._place(generation.id)
            if writable:
                self._become_writer()
            writer = EmbeddedWriter(folder, generation, writable=writable, options=self._options)
            self._open[generation.id] = writer
            return writer

    def pin(self, generation_id: str) -> HybridSearcher:
        """The newest state of a generation that is open; what is applied later does not show in it.

        Raises GenerationUnknown.
        """
        writer = self._open.get(generation_id)
        if writer is None:
            raise GenerationUnknown(f"Generation {generation_id} is not open.")
        return HybridSearcher(writer.state)

    def check(self, generation_id: str, *, share: float = 1.0) -> tuple[Problem, ...]:
        """Read back every stored byte of a generation and compare with the manifests. Raises GenerationUnknown.

        `share` is how much of one core's time it takes: with less than 1 it pauses after each segment.
        """
        folder = self._place(generation_id)
        writer = self._open.get(generation_id)
        if writer is None:
            if not os.path.lexists(folder):
                raise GenerationUnknown(f"Generation {generation_id} is not stored here.")
            return check_generation(folder, share=share)
        return check_generation(folder, share=share, stored=lambda: writer.stored)

    def remove(self, generation_id: str) -> None:
        """Forget a generation and delete its files; one that is not here is fine. Raises WriterBusy, StorageFailed."""
        folder = self._place(generation_id)
        with self._lock:
            self._become_writer()
            self._open.pop(generation_id, None)
            if os.path.lexists(folder):  # whatever it is by now
                with durable.storage(f"The removal of generation {generation_id}"):
                    aside = self._folder / f"{durable.ASIDE}{secrets.token_hex(8)}"
                    durable.publish(folder, aside)
                    durable.delete(aside)

    def close(self) -> None:
        """Let go of all generations and of the writer's lock. Searchers that were pinned go on working."""
        with self._lock:
            self._open.clear()
            if self._writing is not None:
                os.close(self._writing)
                self._writing = None

    def _become_writer(self) -> None:
        if self._writing is None:
            with durable.storage(f"The index folder {self._folder}"):
                durable.make_folder(self._folder)
                self._writing = durable.lock(self._folder / LOCK)
                for leftover in self._folder.glob(durable.ASIDE + "*"):
                    durable.delete(leftover)

    def _place(self, generation_id: str) -> Path:
        if not _NAME.fullmatch(generation_id):
            raise GenerationUnknown(f"{generation_id!r:.100} is not the id of a generation.")
        return self._folder / generation_id
