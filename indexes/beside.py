"""Is a thread idle that can take one half of a search? Work that finds none is left to who brought it.

So one question at a time uses two cores, and where many are asked at once nothing waits in a second queue.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Beside:
    """At most `threads` pieces of work at once. Threads start when they are first needed, in a forked child anew."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._begin_anew()
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self._idle = threading.Semaphore(self._threads)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="beside")

    def begin(self, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> Future[R] | None:
        """Begin work on an idle thread; None, and nothing is begun, if there is none."""
        idle = self._idle
        if not idle.acquire(blocking=False):
            return None
        try:
            future = self._pool.submit(work, *arguments, **options)
        except RuntimeError:  # the interpreter ends
            idle.release()
            return None
        future.add_done_callback(lambda _: idle.release())
        return future
