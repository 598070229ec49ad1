"""Every document is parsed in a throw-away child: a hostile or broken one costs that child and nothing else.

`Jail` owns a few zygotes (zygote.py), each of which forks one child per document: no network, no other programs, no
files but its own folder, and limits on time, memory and output. The wall clock and the output limit are enforced
here, outside; the rest by the kernel (lockdown.py).
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from ingest.errors import DocumentTooLarge, ParserKilled
from ingest.model import Parsed
from ingest.parse.wire import HEADER, WireError, decode_answer

MIB = 1 << 20
START_S = 120.0
"""How long a zygote may take to import its parsers (unstructured takes a few seconds)."""
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of the address space that RLIMIT_AS counts
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "2",
}
# -I ignores PYTHON* variables, the user's site folder and the current folder: the package's own place is handed over.
BOOT = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from ingest.parse.zygote import main; main(int(sys.argv[2]), sys.argv[3])"
)
OUT_OF_MEMORY = ("memory allocation of", "bad_alloc", "MemoryError", "out of memory", "Cannot allocate memory")


@dataclass(frozen=True, slots=True)
class JailLimits:
    """What one document may cost. `memory_mb` is address space above what an idle parser process has."""

    timeout_s: float = 30.0
    memory_mb: int = 1024
    output_bytes: int = 64 * MIB
    input_bytes: int = 256 * MIB


class Jail:
    """Parses documents in throw-away children. Safe to share between threads; `workers` documents at once."""

    def __init__(self, limits: JailLimits | None = None, *, workers: int = 2) -> None:
        if workers < 1:
            raise ValueError("A jail needs at least one worker.")
        self.limits = limits or JailLimits()
        self._zygotes = [_Zygote() for _ in range(workers)]
        self._closed = False
        # Last in, first out: under light load one warm zygote does all the work.
        self._idle: queue.LifoQueue[_Zygote] = queue.LifoQueue()
        for zygote in self._zygotes:
            self._idle.put(zygote)

    def parse(self, data: bytes, *, media_type: str | None, name: str, parser: str = "default") -> Parsed:
        """Elements of one document. `media_type` None: it is settled from the name and the bytes.

        Raises the ParseError of the parser; DocumentTooLarge over `input_bytes`; ParserKilled when the child broke
        a limit or crashed (the message says which).
        """
        if len(data) > self.limits.input_bytes:
            raise DocumentTooLarge(
                f"{name} has {len(data):,} bytes; at most {self.limits.input_bytes:,} are read from one document."
            )
        # File names may hold lone surrogates and be of any length; the ending is what tells the type.
        name = name.encode("utf-8", "replace").decode()[-500:]
        request = {"media_type": media_type, "name": name, "parser": parser, "limits": self._kernel_limits(len(data))}
        zygote = self._idle.get()
        try:
            if self._closed:
                raise RuntimeError("The jail is closed.")
            try:
                return zygote.parse(data, request, self.limits)
            except _ZygoteLostError:  # not this document's doing (it was never in that process): once more
                return zygote.parse(data, request, self.limits)
        except _ZygoteLostError as died:
            raise ParserKilled(f"The process that parses {name} could not be kept running: {died}.") from died
        finally:
            self._idle.put(zygote)

    def close(self) -> None:
        """Wait for the documents that are being parsed, then end the zygotes. Closing twice is fine."""
        self._closed = True
        held = [self._idle.get() for _ in self._zygotes]
        for zygote in held:
            zygote.stop()
            self._idle.put(zygote)

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kernel_limits(self, size: int) -> dict[str, int]:
        return {
            "memory_bytes": self.limits.memory_mb * MIB,
            # A backstop for a stalled owner: the wall clock is watched from outside, on up to two threads.
            "cpu_s": 2 * int(self.limits.timeout_s) + 2,
            "file_bytes": max(self.limits.output_bytes, size) + MIB,
        }


class _ZygoteLostError(Exception):
    """The zygote itself is gone or does not answer."""


class _Zygote:
    """One zygote process, started when first needed and again when it has died. Used by one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workplace = ""

    def parse(self, data: bytes, request: dict[str, Any], limits: JailLimits) -> Parsed:
        control = self._started()
        try:
            answers, child = self._submit(control, data, request)
        except (OSError, ValueError) as gone:
            self.stop()
            raise _ZygoteLostError(str(gone) or type(gone).__name__) from gone
        end = None
        try:
            deadline = time.monotonic() + limits.timeout_s
            body, broken = _read_answer(answers, deadline, limits)
            if not broken and not select.select([child], [], [], max(0.0, deadline - time.monotonic()))[0]:
                broken = _overtime(limits)
            if broken:
                signal.pidfd_send_signal(child, signal.SIGKILL)
            end = self._end(control)
        finally:
            os.close(answers)
            os.close(child)
            if end is None:  # interrupted: its next message would answer this request, not the next one
                self.stop()
        if broken:
            raise ParserKilled(f"{request['name']}: {broken}")
        return _judge(body, end, request["name"], limits)

    def stop(self) -> None:
        """End the process: it exits when its socket closes, and is killed if it does not."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)
            self._process.kill()
            self._process.wait()
            self._process = None
            shutil.rmtree(self._workplace, ignore_errors=True)

    def _started(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(START_S)
            root = str(Path(__file__).resolve().parents[2])
            self._workplace = tempfile.mkdtemp(prefix="ragsvc-parse-")
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", BOOT, root, str(theirs.fileno()), self._workplace],
                    env={**ENVIRONMENT, "TMPDIR": self._workplace},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._control = ours
        return self._control

    def _submit(self, control: socket.socket, data: bytes, request: dict[str, Any]) -> tuple[int, int]:
        """Hand the document over; (pipe that the answer will come from, pidfd of the child)."""
        document = os.memfd_create("document", os.MFD_CLOEXEC)
        answers, answer = os.pipe()
        try:
            _write_all(document, data)
            socket.send_fds(control, [orjson.dumps(request)], [document, answer])
            message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
            if len(descriptors) != 1:
                raise OSError(f"it ended before it could fork ({message.decode('utf-8', 'replace') or 'no answer'})")
        except OSError:
            os.close(answers)
            raise
        finally:
            os.close(document)
            os.close(answer)
        return answers, descriptors[0]

    def _end(self, control: socket.socket) -> dict[str, Any]:
        try:
            message = control.recv(1 << 16)
        except OSError as gone:
            raise _ZygoteLostError(str(gone)) from gone
        if not message:
            raise _ZygoteLostError("it ended while the document was parsed")
        end: dict[str, Any] = orjson.loads(message)
        return end


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


def _read_answer(answers: int, deadline: float, limits: JailLimits) -> tuple[bytes, str]:
    """One frame's body up to the pipe's end; or what is wrong with it: too late, too much."""
    received = bytearray()
    while select.select([answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(answers, MIB)
        if not piece:
            break
        received += piece
        announced = HEADER.unpack_from(received)[0] if len(received) >= HEADER.size else 0
        if max(announced, len(received) - HEADER.size) > limits.output_bytes:
            return b"", f"its text is larger than the limit of {limits.output_bytes:,} bytes."
    else:
        return b"", _overtime(limits)
    whole = len(received) >= HEADER.size and HEADER.unpack_from(received)[0] == len(received) - HEADER.size
    return (bytes(received[HEADER.size :]) if whole else b""), ""


def _overtime(limits: JailLimits) -> str:
    return f"parsing took longer than the limit of {limits.timeout_s:g} s."


def _judge(body: bytes, end: dict[str, Any], name: str, limits: JailLimits) -> Parsed:
    """The answer, if the child lived to give one; else why it died."""
    if end["exit"] == 0 and end["signal"] == 0 and body:
        try:
            return decode_answer(body)
        except WireError as nonsense:
            raise ParserKilled(f"{name}: the parser's answer makes no sense ({nonsense}).") from nonsense
    said = str(end["stderr"]).strip()
    last = said.splitlines()[-1][:200] if said else ""
    if end["signal"] == signal.SIGXCPU:
        raise ParserKilled(f"{name}: {_overtime(limits)}")
    if any(sign in said for sign in OUT_OF_MEMORY) or end["peak_bytes"] > limits.memory_mb * MIB * 3 // 4:
        raise ParserKilled(f"{name}: parsing needed more memory than the limit of {limits.memory_mb} MiB.")
    if end["signal"]:
        crash = signal.strsignal(end["signal"]) or f"signal {end['signal']}"
        raise ParserKilled(f"{name}: the parser crashed ({crash}). {last}".strip())
    raise ParserKilled(f"{name}: the parser failed. {last}".strip())
