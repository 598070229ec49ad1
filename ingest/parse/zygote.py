"""The process that is forked from: it imports the parsers once, stays single-threaded, and never reads a document.

Started by jail.py with one end of a socket pair. For each request it forks a child into a folder of its own and
reports how the child ended; the document and the answer go past it, between the jail's owner and the child:

    owner -> zygote    {"media_type", "name", "parser", "limits"} with two descriptors: document (memfd), answer (pipe)
    zygote -> owner    {"child": pid} with a pidfd of the child, by which the owner kills it
    child  -> owner    one frame of wire.py through the pipe
    zygote -> owner    {"exit", "signal", "peak_bytes", "stderr"}
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import tempfile
import traceback
from pathlib import Path
from typing import Any

import orjson

from ingest.errors import ParseError, ParserKilled
from ingest.parse import lockdown, registry, wire

MESSAGE_BYTES = 1 << 16
STDERR_BYTES = 2000


def main(descriptor: int, workplace: str) -> None:
    """Serve requests on the inherited socket until its other end closes; `workplace` is this process's own folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who closes the socket
    registry.preload("default")
    lockdown.library_folders()  # once, not in each child
    gc.collect()
    gc.freeze()  # children do not copy pages only to mark objects
    lockdown.leave_network()
    with socket.socket(fileno=descriptor) as control, contextlib.suppress(ConnectionError):
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            if not message:
                break
            _serve(control, orjson.loads(message), descriptors, workplace)
    shutil.rmtree(workplace, ignore_errors=True)  # if the owner was killed, no one else does


def _serve(control: socket.socket, request: dict[str, Any], descriptors: list[int], workplace: str) -> None:
    document, answer = descriptors
    with contextlib.suppress(ParseError):  # the child meets the same, and reports it for its document
        registry.preload(request["parser"])
    _require_one_thread()
    folder = Path(tempfile.mkdtemp(dir=workplace))
    try:
        child = os.fork()
        if child == 0:
            _child(request, folder, document, answer, os.getppid())
        os.close(document)
        os.close(answer)
        end = _watch(control, child, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    control.sendall(orjson.dumps(end))  # last: who hears it may rely on nothing being left


def _require_one_thread() -> None:
    # A fork copies only the calling thread: locks that another one holds would stay locked for ever.
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"The zygote has {threads} threads: a parser's import started some.")


def _watch(control: socket.socket, child: int, folder: Path) -> dict[str, Any]:
    """Hand the owner a handle on the child, wait for its end, and say how it ended."""
    ended = os.pidfd_open(child)
    try:
        socket.send_fds(control, [orjson.dumps({"child": child})], [ended])
        readable = select.select([control.fileno(), ended], [], [])[0]
        if ended not in readable:  # the owner is gone
            os.kill(child, signal.SIGKILL)
        return _reap(child, folder)
    finally:
        os.close(ended)


def _reap(child: int, folder: Path) -> dict[str, Any]:
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    # While the child is a zombie its number is still its group's: nothing that it started survives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "exit": max(code, 0),
        "signal": max(-code, 0),
        "peak_bytes": usage.ru_maxrss * 1024,
        "stderr": _tail(folder / "stderr"),
    }


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as said:
        said.seek(max(0, os.fstat(said.fileno()).st_size - STDERR_BYTES))
        return said.read(STDERR_BYTES).decode("utf-8", "replace")
    return ""


def _child(request: dict[str, Any], folder: Path, document: int, answer: int, zygote: int) -> None:
    """Never returns. Whatever goes wrong in here is a fact about this document, and ends with this process."""
    code = 1
    try:
        _confine(request["limits"], folder, document, answer)
        if os.getppid() == zygote:  # else it died before PR_SET_PDEATHSIG was set
            body = wire.frame(_parse(request, document))
            with open(answer, "wb") as out:
                out.write(body)
            code = 0
    except BrokenPipeError:
        code = 0  # the owner has had enough
    finally:
        if code:
            traceback.print_exc(limit=-5)
        os._exit(code)


def _confine(limits: dict[str, int], folder: Path, document: int, answer: int) -> None:
    os.setsid()
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = os.environ["HOME"] = str(folder)
    nowhere = os.open(os.devnull, os.O_RDWR)
    said = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nowhere, 0), (nowhere, 1), (said, 2)):
        os.dup2(source, target)
    keep = sorted((document, answer))
    for low, high in ((3, keep[0]), (keep[0] + 1, keep[1]), (keep[1] + 1, 1 << 16)):
        os.closerange(low, high)
    lockdown.limit_resources(
        memory_bytes=limits["memory_bytes"], cpu_s=limits["cpu_s"], file_bytes=limits["file_bytes"]
    )
    lockdown.lock_down(writable=folder, readable=lockdown.library_folders())


def _parse(request: dict[str, Any], document: int) -> dict[str, Any]:
    name = request["name"]
    try:
        with open(document, "rb") as source:
            data = source.read()
        parsed = registry.parse(data, media_type=request["media_type"], name=name, parser=request["parser"])
        return wire.encode_parsed(parsed)
    except ParseError as refused:
        return wire.encode_error(refused)
    except MemoryError:
        return wire.encode_error(ParserKilled(f"{name}: parsing needed more memory than its limit allows."))
    except RecursionError:
        return wire.encode_error(ParserKilled(f"{name} is nested too deeply to be parsed."))
