"""Taking away from a process what a parser does not need: network, other programs, other people's files.

Linux only, through ctypes, because no package in the default install does it. Each layer is independent and the
ones that the kernel refuses are left out; `lock_down` says which took hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
CLONE_NEWUSER, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the seccomp filter must know of an architecture: linux/audit.h and the system call tables."""

    audit: int
    denied: tuple[int, ...]
    clone: int
    kill: int
    tgkill: int
    prlimit: int


# Denied, in this order: socket, connect, bind, listen, accept, accept4, sendto, sendmsg, execve, execveat, ptrace,
# process_vm_readv, process_vm_writev, unshare, setns, mount, umount2, pivot_root, chroot, bpf, perf_event_open,
# userfaultfd, keyctl, add_key, request_key, io_uring_setup, pidfd_getfd, pidfd_send_signal, tkill, rt_sigqueueinfo,
# rt_tgsigqueueinfo; then fork and vfork where they exist.
MACHINES = {
    "x86_64": Machine(
        audit=0xC000003E,
        denied=(
            *(41, 42, 49, 50, 43, 288, 44, 46, 59, 322, 101, 310, 311, 272, 308, 165, 166, 155, 161, 321, 298, 323),
            *(250, 248, 249, 425, 438, 424, 200, 129, 297, 57, 58),
        ),
        clone=56,
        kill=62,
        tgkill=234,
        prlimit=302,
    ),
    "aarch64": Machine(
        audit=0xC00000B7,
        denied=(
            *(198, 203, 200, 201, 202, 242, 206, 211, 221, 281, 117, 270, 271, 97, 268, 40, 39, 41, 51, 280, 241, 282),
            *(219, 217, 218, 425, 438, 424, 130, 138, 240),
        ),
        clone=220,
        kill=129,
        tgkill=131,
        prlimit=261,
    ),
}
CLONE3 = 435  # the same number everywhere


def leave_network() -> bool:
    """Move this process, and all it will fork, into a network of its own that has no interfaces up.

    With a user namespace first, so that root loses its capabilities over the machine as well. Must be called while
    the process has one thread. False when the kernel refuses.
    """
    return any(_libc.unshare(flags) == 0 for flags in (CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWNET))


def limit_resources(*, memory_bytes: int, cpu_s: int, file_bytes: int, open_files: int = 256) -> None:
    """Hard limits of the kernel. `memory_bytes` counts address space on top of what the process has now."""
    baseline = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = (
        (resource.RLIMIT_AS, baseline + memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, value in limits:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def lock_down(*, writable: Path, readable: Iterable[Path]) -> frozenset[str]:
    """Give up for ever: new privileges, capabilities, sockets, other programs and processes, files elsewhere.

    `writable` is the only folder that can still be written to, `readable` those that can be read. Returns the
    names of the layers that took hold: any of "capabilities", "landlock", "seccomp".
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)
    layers = {
        "capabilities": _drop_capabilities(),
        "landlock": _landlock(writable, readable),
        "seccomp": _seccomp(),
    }
    return frozenset(name for name, held in layers.items() if held)


@functools.cache
def library_folders() -> tuple[Path, ...]:
    """What the interpreter, its packages and the C library read at run time: code, no one's documents or secrets."""
    system = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/dev/urandom")
    kernel = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/sys/fs/cgroup")
    # A checkout's root may hold a data folder: of it, only the packages.
    root = Path(__file__).resolve().parents[2]
    packages = [root / "ingest", root / "indexes"]
    paths = [Path(p) for p in (sys.prefix, sys.base_prefix, *sys.path) if p and Path(p).resolve() != root]
    found = [*map(Path, (*system, *kernel)), *packages, *paths]
    return tuple(dict.fromkeys(p for p in found if p.exists()))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _drop_capabilities() -> bool:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    nothing = (ctypes.c_uint32 * 6)()
    return bool(_libc.capset(header, nothing) == 0)


# --- Landlock (linux/landlock.h): files ---------------------------------------------------------------------------

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers everywhere
RULE_PATH_BENEATH = 1
ACCESS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # bits of file access known to each version
READ = 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
READ_ONE_FILE = 1 << 2
WRITE_ONE_FILE = 1 << 1


def _landlock(writable: Path, readable: Iterable[Path]) -> bool:
    abi = _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    everything = (1 << ACCESS_BY_ABI.get(min(abi, 5), 13)) - 1
    handled = ctypes.create_string_buffer(struct.pack("=Q", everything), 8)
    ruleset = _libc.syscall(CREATE_RULESET, handled, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(ruleset, path, READ if path.is_dir() else READ_ONE_FILE)
        _allow(ruleset, Path("/dev/null"), READ_ONE_FILE | WRITE_ONE_FILE)
        _allow(ruleset, writable, everything & ~1)  # all but EXECUTE
        return bool(_libc.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = ctypes.create_string_buffer(struct.pack("=Qi", access, beneath), 12)
            _libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(beneath)


# --- seccomp (linux/seccomp.h, linux/filter.h): system calls ------------------------------------------------------

LOAD, JUMP_EQUAL, JUMP_SET, JUMP_ABOVE, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16
X32 = 0x40000000  # the x32 calls of x86_64 carry this bit and would walk around the table


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _seccomp() -> bool:
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    code = b"".join(struct.pack("=HBBI", *step) for step in _steps(machine, os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    return bool(_libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0) == 0)


def _steps(machine: Machine, pid: int) -> list[tuple[int, int, int, int]]:
    """The filter: (operation, jump if true, jump if false, constant) for each instruction."""
    refuse = (RETURN, 0, 0, ERRNO | errno.EPERM)
    allow = (RETURN, 0, 0, ALLOW)
    number = (LOAD, 0, 0, AT_NUMBER)
    argument = (LOAD, 0, 0, AT_FIRST_ARGUMENT)
    steps = [
        (LOAD, 0, 0, AT_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, machine.audit),
        (RETURN, 0, 0, KILL),
        number,
        (JUMP_ABOVE, 0, 1, X32),
        refuse,
    ]
    for call in machine.denied:
        steps += [(JUMP_EQUAL, 0, 1, call), refuse]
    # clone3 hides its flags in memory: "not implemented" makes the C library fall back to clone.
    steps += [(JUMP_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    # clone may make threads (tokio, OpenBLAS) but no processes.
    steps += [(JUMP_EQUAL, 0, 4, machine.clone), argument, (JUMP_SET, 1, 0, CLONE_THREAD), refuse, allow]
    # kill and tgkill may hit this process (abort does), prlimit may ask about it (0), but no other.
    for call, target in ((machine.kill, pid), (machine.tgkill, pid), (machine.prlimit, 0)):
        steps += [(JUMP_EQUAL, 0, 4, call), argument, (JUMP_EQUAL, 1, 0, target), refuse, allow]
    return [*steps, allow]
