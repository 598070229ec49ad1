"""What a locked-down process can no longer do. Each check runs in a process of its own, with the real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ingest.parse import lockdown

ROOT = Path(__file__).resolve().parents[2]
PROLOGUE = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, threading
from pathlib import Path
from ingest.parse import lockdown
network = lockdown.leave_network()
own = Path(sys.argv[1])
lockdown.limit_resources(memory_bytes=256 << 20, cpu_s=5, file_bytes=1 << 20, open_files=64)
layers = lockdown.lock_down(writable=own, readable=lockdown.library_folders())

def attempt(action):
    try:
        return repr(action())
    except OSError as refused:
        return errno.errorcode.get(refused.errno, str(refused.errno))
    except MemoryError:
        return "MemoryError"
"""


def confined(body: str, folder: Path, *, expect: int = 0) -> dict[str, str]:
    """Run `body` in a locked-down process; it fills `out`, which comes back."""
    code = PROLOGUE + "out = {'network': str(network), 'layers': ' '.join(sorted(layers))}\n" + textwrap.dedent(body)
    code += "\nprint(json.dumps(out), flush=True)\nos._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=30
    )
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout) if expect == 0 else {}


def test_all_layers_hold_on_a_current_kernel(tmp_path: Path) -> None:
    out = confined("", tmp_path)
    assert "seccomp" in out["layers"]
    assert out["layers"] == "capabilities landlock seccomp" or not landlock()


def landlock() -> bool:
    return lockdown._libc.syscall(lockdown.CREATE_RULESET, None, 0, 1) > 0


FORBIDDEN = (
    ("lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)", "EPERM"),
    ("lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", "EPERM"),
    ("lambda: socket.socket(socket.AF_UNIX)", "EPERM"),
    ("lambda: os.execv('/bin/true', ['true'])", "EPERM"),
    ("lambda: subprocess.run(['/bin/true'])", "EPERM"),
    ("lambda: os.fork()", "EPERM"),
    ("lambda: os.posix_spawn('/bin/true', ['true'], {})", "EPERM"),
    ("lambda: os.kill(os.getppid(), signal.SIGTERM)", "EPERM"),
    ("lambda: os.kill(-1, signal.SIGTERM)", "EPERM"),
    ("lambda: os.chroot('/')", "EPERM"),
    ("lambda: lockdown._libc.ptrace(0, 0, 0, 0)", "-1"),
    ("lambda: lockdown._libc.unshare(0x10000000)", "-1"),
)
FILES = (
    "lambda: open('/etc/passwd').read()",
    "lambda: open('/etc/shadow').read()",
    "lambda: (own.parent / 'secret').read_text()",
    "lambda: (own.parent / 'secret').write_text('x')",
    "lambda: (own.parent / 'new').write_text('x')",
    "lambda: (own.parent / 'secret').unlink()",
    "lambda: os.listdir(own.parent)",
    "lambda: os.rename(own.parent / 'secret', own / 'mine')",
    "lambda: open('/proc/1/environ').read()",
    "lambda: open(f'/proc/{os.getppid()}/environ').read()",
    "lambda: os.listdir('/root')",
    "lambda: open('pyproject.toml').read()",
    "lambda: os.symlink('/etc', own.parent / 'link')",
)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How each attempt ended, all made in one locked-down process; and what is left beside its folder."""
    beside = tmp_path_factory.mktemp("beside")
    (beside / "secret").write_text("untouched")
    (beside / "own").mkdir()
    actions = [action for action, _ in FORBIDDEN] + list(FILES)
    out = confined("\n".join(f"out[{action!r}] = attempt({action})" for action in actions), beside / "own")
    out["beside"] = f"{sorted(os.listdir(beside))} {(beside / 'secret').read_text()}"
    return out


@pytest.mark.parametrize(("action", "refusal"), FORBIDDEN)
def test_system_calls_that_a_parser_does_not_need(action: str, refusal: str, attempts: dict[str, str]) -> None:
    assert attempts[action] == refusal


def test_what_a_parser_does_need_still_works(tmp_path: Path) -> None:
    out = confined(
        """
        def work(): out["thread"] = "ran"
        thread = threading.Thread(target=work); thread.start(); thread.join()
        out["write"] = attempt(lambda: (own / "scratch").write_text("x"))
        out["import"] = attempt(lambda: __import__("wave").__name__)
        out["pair"] = attempt(lambda: len(socket.socketpair()))
        out["self"] = attempt(lambda: os.kill(os.getpid(), 0))
        """,
        tmp_path,
    )
    kept = {key: out[key] for key in ("thread", "write", "import", "pair", "self")}
    assert kept == {"thread": "ran", "write": "1", "import": "'wave'", "pair": "2", "self": "None"}


@pytest.mark.skipif(not landlock(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("action", FILES)
def test_files_of_others(action: str, attempts: dict[str, str]) -> None:
    assert attempts[action] in ("EACCES", "EXDEV", "EPERM")


@pytest.mark.skipif(not landlock(), reason="this kernel has no Landlock")
def test_nothing_was_written_outside(attempts: dict[str, str]) -> None:
    assert attempts["beside"] == "['own', 'secret'] untouched"


def test_the_network_namespace_is_empty(tmp_path: Path) -> None:
    out = confined("out['devices'] = open('/proc/self/net/dev').read()", tmp_path)
    if out["network"] == "False":
        pytest.skip("this kernel lets no one leave the network")
    devices = {line.split(":")[0].strip() for line in out["devices"].splitlines()[2:]}
    assert devices <= {"lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}


def test_memory_ends(tmp_path: Path) -> None:
    assert confined("out['it'] = attempt(lambda: len(bytearray(300 << 20)))", tmp_path)["it"] == "MemoryError"
    assert confined("out['it'] = attempt(lambda: len(bytearray(100 << 20)))", tmp_path)["it"] == str(100 << 20)


def test_files_end(tmp_path: Path) -> None:
    body = "out['it'] = attempt(lambda: (own / 'big').write_bytes(b'x' * (2 << 20)))"
    assert confined(body, tmp_path)["it"] == "EFBIG"
    assert (tmp_path / "big").stat().st_size == 1 << 20
    body = "out['it'] = attempt(lambda: len([open(own / str(n), 'w') for n in range(99)]))"
    assert confined(body, tmp_path)["it"] == "EMFILE"


def test_aborting_itself_is_possible(tmp_path: Path) -> None:
    confined("os.abort()", tmp_path, expect=-6)


def test_limits_cannot_be_raised_again(tmp_path: Path) -> None:
    body = "import resource\nout['it'] = attempt(lambda: resource.setrlimit(resource.RLIMIT_CPU, (999, 999)))"
    with pytest.raises(AssertionError, match="not allowed to raise maximum limit"):  # a ValueError over there
        confined(body, tmp_path)
