"""Processes to be killed with SIGKILL: one process imports everything once, then forks a worker for each round."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ZYGOTE = """
import gc, importlib, json, os, sys, traceback
module = importlib.import_module(sys.argv[1])
gc.freeze()  # else each worker's first collection copies all of it
print("ready", flush=True)
while line := sys.stdin.readline():
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        os.read(told, 1)  # until the line with its number is out: theirs must not mix
        try:
            module.main(**json.loads(line))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    print(f"pid {pid}", flush=True)
    os.close(told)
    os.close(tell)
    print(f"end {os.waitpid(pid, 0)[1]}", flush=True)
"""


class Killable:
    """Runs `main(**arguments)` of a module in a fresh process, which can be killed at any moment."""

    def __init__(self, module: str, root: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE, module],
            cwd=root,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self.line(120) == "ready"
        self.pid = 0

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("gone")

    def line(self, timeout_s: float = 60) -> str:
        """The next line that the worker printed."""
        return self._lines.get(timeout=timeout_s)

    def begin(self, **arguments: Any) -> None:
        """Start a worker."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        while not (line := self.line()).startswith("pid "):
            self._held(line)
        self.pid = int(line.split()[1])

    def _held(self, line: str) -> None:
        raise AssertionError(f"unexpected: {line}")

    def kill(self, after_s: float = 0) -> list[str]:
        """Kill the worker, and give the lines that it had printed."""
        time.sleep(after_s)
        os.kill(self.pid, signal.SIGKILL)
        lines, status = self.rest(300)  # a process that waits for the disk dies only then
        assert status == signal.SIGKILL, f"it had ended before it was killed: {status} {lines}"
        return lines

    def rest(self, timeout_s: float = 60) -> tuple[list[str], int]:
        """All lines until the worker's end, and its wait status."""
        lines = []
        while not (line := self.line(timeout_s)).startswith("end "):
            assert line != "gone"
            lines.append(line)
        return lines, int(line.split()[1])

    def __enter__(self) -> Killable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # a worker that still runs would hold the pipe open
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
