"""Work beside: taken by an idle thread or not at all, and in a forked child too."""

from __future__ import annotations

import os
import threading

import pytest

from indexes.beside import Beside


def test_work_is_done_on_another_thread() -> None:
    future = Beside(1).begin(lambda word, *, twice: (word * twice, threading.get_ident()), "ab", twice=2)
    assert future is not None
    found, thread = future.result(5)
    assert found == "abab"
    assert thread != threading.get_ident()


def test_what_goes_wrong_there_is_raised_here() -> None:
    future = Beside(1).begin(lambda: 1 // 0)
    assert future is not None
    with pytest.raises(ZeroDivisionError):
        future.result(5)


def test_nothing_waits_for_a_thread() -> None:
    beside, go = Beside(2), threading.Event()
    busy = [beside.begin(go.wait, 5) for _ in range(3)]
    assert [future is None for future in busy] == [False, False, True]
    go.set()
    for future in busy[:2]:
        assert future is not None
        assert future.result(5)
    again = [beside.begin(int) for _ in range(2)]
    assert None not in again


def test_a_forked_child_has_threads_of_its_own() -> None:
    beside = Beside(1)
    first = beside.begin(int)
    assert first is not None
    assert first.result(5) == 0
    child = os.fork()
    if child == 0:
        future = beside.begin(int)
        os._exit(0 if future is not None and future.result(5) == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
