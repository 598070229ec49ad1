"""Hostile and broken documents cost their child and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingest.errors import (
    DocumentTooLarge,
    ParseError,
    ParserKilled,
    TypeNotSupported,
)
from ingest.parse.jail import MIB, Jail, JailLimits
from tests.contracts.parser_documents import (
    bomb_docx,
)

ROOT = Path(__file__).resolve().parents[2]
SLOW = b"# heading\n\n" + b"- *a* [b](c) `d` **e**\n" * 60_000
"""Seconds of honest work for the Markdown parser."""


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(workers=2) as jail:
        yield jail


def works(jail: Jail) -> bool:
    return jail.parse(b"Still here.", media_type=None, name="a.txt").elements[0].text == "Still here."


def zygotes(jail: Jail) -> list[int]:
    return [z._process.pid for z in jail._zygotes if z._process is not None and z._process.poll() is None]


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def wait_for_child(jail: Jail) -> int:
    """The child that parses now, once it is past its preparations."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = [child for zygote in zygotes(jail) for child in children(zygote)]
        if found:
            time.sleep(0.1)
            return found[0]
        time.sleep(0.005)
    raise AssertionError("no child was forked")


def gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z" and not children(pid):  # dead; whoever adopted it has not looked yet
            return True
        time.sleep(0.02)
    return False


def test_a_slow_document_is_stopped() -> None:
    with Jail(JailLimits(timeout_s=0.3), workers=1) as jail:
        works(jail)
        start = time.monotonic()
        with pytest.raises(ParserKilled, match=r"slow\.md: parsing took longer than the limit of 0\.3 s"):
            jail.parse(SLOW, media_type=None, name="slow.md")
        assert time.monotonic() - start < 2
        assert works(jail)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("big.txt", b"many words here " * (3 * MIB)),
        ("big.html", b"<p>many words here</p>" * (2 * MIB)),
        ("packed.docx", bomb_docx(mebibytes=48)),
    ],
)
def test_a_memory_hog_is_stopped(name: str, data: bytes) -> None:
    with Jail(JailLimits(memory_mb=48), workers=1) as jail:
        with pytest.raises(ParserKilled, match="memory"):
            jail.parse(data, media_type=None, name=name)
        assert works(jail)


def test_an_output_flood_is_stopped() -> None:
    with Jail(JailLimits(output_bytes=10_000), workers=1) as jail:
        with pytest.raises(ParserKilled, match=r"flood\.txt: its text is larger than the limit of 10,000 bytes"):
            jail.parse(b"word " * 100_000, media_type=None, name="flood.txt")
        assert works(jail)


def test_a_document_over_the_limit_is_not_even_sent() -> None:
    with Jail(JailLimits(input_bytes=10), workers=1) as jail:
        with pytest.raises(DocumentTooLarge, match=r"big\.txt has 11 bytes"):
            jail.parse(b"x" * 11, media_type=None, name="big.txt")
        assert zygotes(jail) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGSEGV, "Segmentation fault"), (signal.SIGABRT, "Aborted"), (signal.SIGKILL, "Killed")],
)
def test_a_crash_in_the_child_is_one_documents_error(number: signal.Signals, says: str) -> None:
    with Jail(workers=1) as jail, ThreadPoolExecutor(1) as pool:
        works(jail)
        before = zygotes(jail)
        future = pool.submit(jail.parse, SLOW, media_type=None, name="slow.md")
        os.kill(wait_for_child(jail), number)
        with pytest.raises(ParserKilled, match=rf"slow\.md: the parser crashed \({says}\)"):
            future.result(timeout=10)
        assert works(jail)
        assert zygotes(jail) == before


def test_a_zygote_that_died_in_its_sleep_is_replaced() -> None:
    with Jail(workers=1) as jail:
        works(jail)
        (zygote,) = zygotes(jail)
        os.kill(zygote, signal.SIGKILL)
        assert works(jail)
        assert zygotes(jail) != [zygote]


def test_a_zygote_that_dies_at_work_takes_its_child_along_and_the_document_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    document = SLOW[: len(SLOW) // 8]
    with Jail(workers=1) as jail, ThreadPoolExecutor(1) as pool:
        works(jail)
        (zygote,) = zygotes(jail)
        future = pool.submit(jail.parse, document, media_type=None, name="slow.md")
        child = wait_for_child(jail)
        os.kill(zygote, signal.SIGKILL)
        assert gone(child)
        assert len(future.result(timeout=20).elements) > 5_000
    assert os.listdir(tmp_path) == []


def test_nothing_survives_an_owner_that_is_killed(tmp_path: Path) -> None:
    code = """
        import tempfile, sys
        tempfile.tempdir = sys.argv[1]
        from ingest.parse.jail import Jail
        jail = Jail(workers=1)
        jail.parse(b"warm", media_type=None, name="a.txt")
        print(jail._zygotes[0]._process.pid, flush=True)
        jail.parse(b"# h\\n\\n" + b"- *a* [b](c) `d`\\n" * 200_000, media_type=None, name="slow.md")
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    zygote = int(owner.stdout.readline())
    until = time.monotonic() + 10
    while not (found := children(zygote)) and time.monotonic() < until:
        time.sleep(0.005)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert found
    assert gone(found[0])
    assert gone(zygote)
    assert os.listdir(tmp_path) == []


def test_many_threads_at_once(jail: Jail) -> None:
    def one(number: int) -> str:
        return jail.parse(f"Document {number}.".encode(), media_type=None, name=f"{number}.txt").elements[0].text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(80))) == [f"Document {number}." for number in range(80)]
    assert len(zygotes(jail)) <= 2


def test_a_slow_document_does_not_hold_up_another_worker() -> None:
    with Jail(JailLimits(timeout_s=1.5), workers=2) as jail:
        works(jail)
        done = threading.Event()

        def slow() -> None:
            with contextlib.suppress(ParserKilled):
                jail.parse(SLOW, media_type=None, name="slow.md")
            done.set()

        thread = threading.Thread(target=slow)
        thread.start()
        wait_for_child(jail)
        assert works(jail)
        assert not done.is_set()
        thread.join()


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Jail(JailLimits(timeout_s=0.3), workers=1) as jail:
        works(jail)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            works(jail)
            with pytest.raises(ParseError):
                jail.parse(b"", media_type=None, name="e.txt")
        with pytest.raises(ParserKilled):
            jail.parse(SLOW, media_type=None, name="slow.md")
        assert len(os.listdir("/proc/self/fd")) == descriptors
        (workplace,) = tmp_path.iterdir()
        assert list(workplace.iterdir()) == []
        (zygote,) = zygotes(jail)
        assert children(zygote) == []
        assert len(os.listdir(f"/proc/{zygote}/task")) == 1
    assert gone(zygote)
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1


def test_the_owners_environment_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSVC_SECRET", "hunter2")
    with Jail(workers=1) as jail:
        works(jail)
        (zygote,) = zygotes(jail)
        assert b"hunter2" not in Path(f"/proc/{zygote}/environ").read_bytes()


@pytest.mark.parametrize(
    "name", ["\udcff\udcfe.txt", "a" * 100_000 + ".txt", "../../etc/passwd.txt", "x\n\x00.txt", ""]
)
def test_any_name_will_do(jail: Jail, name: str) -> None:
    assert jail.parse(b"words", media_type="text/plain", name=name).elements[0].text == "words"


def test_an_unknown_parser_is_refused(jail: Jail) -> None:
    with pytest.raises(TypeNotSupported, match="nonsense"):
        jail.parse(b"x", media_type="text/plain", name="a.txt", parser="nonsense")
    assert works(jail)


def test_a_closed_jail_says_so() -> None:
    jail = Jail(workers=1)
    jail.close()
    jail.close()
    with pytest.raises(RuntimeError, match="closed"):
        jail.parse(b"x", media_type=None, name="a.txt")


def test_a_small_document_costs_milliseconds(jail: Jail) -> None:
    works(jail)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        works(jail)
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.1, "ten times what it takes on an idle machine"
