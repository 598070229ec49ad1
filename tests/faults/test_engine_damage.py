"""Crashes at every step of publish and merge, flipped bits, lost files, full disks: the engine says so and goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from indexes import durable
from indexes.embedded import EmbeddedEngine
from indexes.errors import StorageFailed
from indexes.model import Close, Drop, Op
from tests.contracts.engine_oracle import GENERATION, Oracle, ask, assert_answers, public, put, unit

BATCHES: list[list[Op]] = [
    [put("a@1", "red fox", "blue whale"), public("a", lang="en"), put("b@1", "red cat")],
    [put("a@2", "red dog", seq=2), Close("a@1", 50, 2)],
    [put("c@1", "green fox", "red fox fox", seq=3), public("c", lang="de")],
    [Drop("b@1"), put("d@1", "red bird", seq=4)],
    [put("c@1", "green fox", "red red", seq=5), Close("d@1", 90, 5)],
]
QUERIES = [ask("red fox", unit(1)), ask("red", at=20), ask("fox whale", unit(2), at_seq=2), ask(vector=unit(3), at=95)]


def build(folder: Path, upto: int) -> None:
    """Apply and publish the first batches, one segment each, and merge at the end."""
    engine = EmbeddedEngine(folder)
    writer = engine.open(GENERATION, writable=True)
    for seq, batch in enumerate(BATCHES[:upto], 1):
        writer.apply(batch, seq=seq)
        writer.publish()
    writer.merge()
    engine.close()


def oracle_at(seq: int) -> Oracle:
    oracle = Oracle()
    for batch in BATCHES[:seq]:
        oracle.apply(batch)
    return oracle


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here: what a process wrote survives the process without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def assert_sound(folder: Path, seqs: set[int], *, follow: bool = True) -> int:
    """The folder opens at one of these sequence numbers and answers like the oracle there.

    With `follow` it also takes the log to its end, publishes, and has nothing to complain of. Returns where it opened.
    """
    engine = EmbeddedEngine(folder)
    writer = engine.open(GENERATION, writable=True)
    seq = writer.seq
    assert seq in seqs
    for query in QUERIES:
        assert_answers(engine.pin(GENERATION.id).search(query), query, oracle_at(seq))
    for number, batch in enumerate(BATCHES, 1):
        writer.apply(batch, seq=number)
    if follow:
        assert writer.publish().seq == len(BATCHES)
    for query in QUERIES:
        assert_answers(engine.pin(GENERATION.id).search(query), query, oracle_at(len(BATCHES)))
    assert engine.check(GENERATION.id) == ()
    left = [path for path in folder.rglob("*") if path.name.startswith(durable.ASIDE)]
    assert left == []
    engine.close()
    return seq


# ---------------------------------------------------------------- crashes

CHILD = """
import os, shutil, sys
from pathlib import Path
from indexes import durable
from indexes.embedded import EmbeddedEngine
from tests.contracts.engine_oracle import GENERATION
from tests.faults.test_engine_damage import BATCHES

os.fsync = lambda descriptor: None
folder, upto = Path(sys.argv[1]), int(sys.argv[2])
for stop in range(0, 1000, int(sys.argv[4])):
    child = os.fork()
    if child:
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            print(stop)
            break
        continue
    here = folder.with_name(f"crash{stop:03}")
    shutil.copytree(folder, here)
    count = 0

    def reached(step, path):
        global count
        if step.endswith(" done"):  # those are for test_a03_failpoints.py
            return
        if count == stop:
            (here.with_name(here.name + ".step")).write_text(f"{step} {path.name}")
            os._exit(9)
        count += 1

    engine = EmbeddedEngine(here)
    writer = engine.open(GENERATION, writable=True)
    for seq, batch in enumerate(BATCHES[:upto], 1):
        writer.apply(batch, seq=seq)
    durable.reached = reached
    getattr(writer, sys.argv[3])()
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("published", "applied", "work", "stride"), [(2, 3, "publish", 1), (4, 5, "merge", 3)])
def test_a_crash_at_any_step_leaves_the_state_before_or_after(
    tmp_path: Path, root: Path, published: int, applied: int, work: str, stride: int
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for seq in range(published):
        engine = EmbeddedEngine(start)
        writer = engine.open(GENERATION, writable=True)
        writer.apply(BATCHES[seq], seq=seq + 1)
        writer.publish()
        engine.close()
    command = [sys.executable, "-c", CHILD, str(start), str(applied), work, str(stride)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 20
    stops = range(0, steps + 1, stride)
    found = [assert_sound(tmp_path / f"crash{stop:03}", {published, applied}, follow=stop % 9 == 0) for stop in stops]
    assert found == sorted(found)
    assert set(found) == {published, applied}
    if stride == 1:  # it is the rename of the snapshot file that makes the difference, no other step
        last = (tmp_path / f"crash{found.count(published) - 1:03}.step").read_text()
        assert last == f"rename {applied:020d}.json"


# ---------------------------------------------------------------- damage

Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lose(path: Path) -> None:
    path.unlink()


def stored_files(folder: Path) -> list[Path]:
    """Every file that holds something of the newest snapshot or a segment it names."""
    place = folder / GENERATION.id
    newest = max((place / "snapshots").glob("*.json"))
    body = json.loads(newest.read_bytes())["body"]
    files = [newest, place / "snapshots" / body["tables"]]
    for name, _ in body["segments"]:
        files += [path for path in (place / "segments" / name).rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(files)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snapshots, at 2 and 3, with a segment of each batch."""
    folder = tmp_path_factory.mktemp("sound") / "indexes"
    build(folder, 3)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut, lose])
def test_damage_to_any_file_is_found_and_mended_from_the_log(sound: Path, tmp_path: Path, damage: Damage) -> None:
    files = stored_files(sound)
    kinds = {path.suffix for path in files}
    assert {".json", ".columns", ".f32", ".idx", ".term", ".fast", ".fieldnorm"} <= kinds
    for number, path in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        damage(folder / path.relative_to(sound))
        engine = EmbeddedEngine(folder)
        if not (damage is lose and path.parent.name == "snapshots" and path.suffix == ".json"):
            problems = engine.check(GENERATION.id)
            assert problems, f"nobody saw the damage to {path.name}"
            told = " ".join([problem.part + problem.what + " ".join(problem.details) for problem in problems])
            assert path.name in told or path.parent.name in told
        writer = engine.open(GENERATION, writable=True)
        if damage is not lose or path.suffix != ".json" or path.parent.name != "snapshots":
            assert writer.problems
            assert all(GENERATION.id in problem.part for problem in writer.problems)
        engine.close()
        # The older snapshot if its own segments are sound, else an empty state; never a wrong one.
        assert_sound(folder, {0, 2}, follow=number % 10 == 0)


def test_flips_anywhere_in_the_vectors_are_found(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "indexes"
    shutil.copytree(sound, folder)
    (path, *_) = [path for path in stored_files(folder) if path.suffix == ".f32"]
    content = path.read_bytes()
    engine = EmbeddedEngine(folder)
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert engine.check(GENERATION.id)
    path.write_bytes(content)
    assert engine.check(GENERATION.id) == ()


def test_a_foreign_file_in_a_segment_is_a_problem(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "indexes"
    shutil.copytree(sound, folder)
    (segment, *_) = (folder / GENERATION.id / "segments").iterdir()
    (segment / "lexical" / "extra.idx").write_bytes(b"x")
    (problem,) = EmbeddedEngine(folder).check(GENERATION.id)
    assert segment.name in problem.part
    assert problem.details == ("lexical/extra.idx is not in the manifest",)


def test_a_manifest_that_was_made_to_fit_is_found(sound: Path, tmp_path: Path) -> None:
    """Files and manifest agree with each other, but not with the snapshot."""
    folder = tmp_path / "indexes"
    shutil.copytree(sound, folder)
    (segment, *_) = (folder / GENERATION.id / "segments").iterdir()
    path = segment / "manifest.json"
    path.write_text(path.read_text().replace('"rows": ', '"rows":  '))
    assert "manifest.json" in EmbeddedEngine(folder).check(GENERATION.id)[0].what
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=1))
    assert EmbeddedEngine(folder).check(GENERATION.id) == ()


def test_segments_exchanged_for_another_are_found(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "indexes"
    shutil.copytree(sound, folder)
    first, second, *_ = sorted((folder / GENERATION.id / "segments").iterdir())
    aside = first.with_name("swap")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    assert len(EmbeddedEngine(folder).check(GENERATION.id)) == 2


def test_when_every_snapshot_is_damaged_all_is_applied_again(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "indexes"
    shutil.copytree(sound, folder)
    for path in (folder / GENERATION.id / "snapshots").glob("*.json"):
        flip(path)
    engine = EmbeddedEngine(folder)
    assert len(engine.check(GENERATION.id)) == 2
    reader = engine.open(GENERATION, writable=False)
    assert (reader.seq, len(reader.problems)) == (0, 2)
    assert len(engine.check(GENERATION.id)) == 2  # who only reads deletes nothing
    engine.close()
    assert assert_sound(folder, {0}) == 0


def test_a_reader_does_not_take_a_damaged_snapshot(tmp_path: Path) -> None:
    first, second = EmbeddedEngine(tmp_path), EmbeddedEngine(tmp_path)
    writer = first.open(GENERATION, writable=True)
    writer.apply(BATCHES[0], seq=1)
    writer.publish()
    reader = second.open(GENERATION, writable=False)
    writer.apply(BATCHES[1], seq=2)
    writer.publish()
    flip(tmp_path / GENERATION.id / "snapshots" / f"{2:020d}.json")
    assert not reader.refresh()
    assert not reader.refresh()
    assert reader.seq == 1
    assert_answers(second.pin(GENERATION.id).search(QUERIES[0]), QUERIES[0], oracle_at(1))
    writer.apply(BATCHES[2], seq=3)
    writer.publish()
    assert reader.refresh()
    assert_answers(second.pin(GENERATION.id).search(QUERIES[0]), QUERIES[0], oracle_at(3))
    first.close()
    second.close()


# ---------------------------------------------------------------- the disk refuses


@pytest.mark.slow
@pytest.mark.parametrize(("work", "code"), [("publish", errno.ENOSPC), ("merge", errno.EIO)])
def test_a_refused_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, work: str) -> None:
    folder = tmp_path / "indexes"
    build(folder, 4)
    engine = EmbeddedEngine(folder)
    writer = engine.open(GENERATION, writable=True)
    writer.apply(BATCHES[4], seq=5)
    for n in range(4 if work == "merge" else 0):
        writer.apply([put(f"m{n}@1", "more", seq=6 + n)], seq=6 + n)
        writer.publish()
    if work == "merge":
        writer.apply([put("z@1", "last")], seq=10)
    before = [engine.pin(GENERATION.id).search(query) for query in QUERIES]
    failed: list[StorageFailed] = []
    stop = 0
    while True:
        count = 0

        def refuse(step: str, path: Path, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count > stop and step in ("write", "sync", "rename", "sync_folder"):
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(durable, "reached", refuse)
        try:
            getattr(writer, work)()
            break
        except StorageFailed as error:
            failed.append(error)
        assert [engine.pin(GENERATION.id).search(query) for query in QUERIES] == before
        stop += 1
    assert len(failed) > 15
    assert all(error.retryable and os.strerror(code) in error.message for error in failed)
    monkeypatch.undo()
    engine.close()
    if work == "publish":
        assert_sound(folder, {4, 5})


def test_failed_publishes_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    writer.apply(BATCHES[0], seq=1)

    def refuse(step: str, path: Path) -> None:
        if step == "write" and "snapshots" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "reached", refuse)
    for _ in range(3):
        with pytest.raises(StorageFailed, match="No space"):
            writer.publish()
    assert list((tmp_path / GENERATION.id / "segments").iterdir()) == []
    monkeypatch.undo()
    assert writer.publish().seq == 1
    engine.close()


LIMITED = """
import resource, sys
from pathlib import Path
from indexes.embedded import EmbeddedEngine
from indexes.errors import StorageFailed
from tests.contracts.engine_oracle import GENERATION, ask, put
engine = EmbeddedEngine(Path(sys.argv[1]))
writer = engine.open(GENERATION, writable=True)
writer.apply([put(f"a{n}@1", *[f"word w{n} w{m}" for m in range(20)]) for n in range(50)], seq=1)
failed = 0
for limit in (0, 100, 1000, 10_000, 20_000, 40_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        writer.publish()
    except StorageFailed:
        failed += 1
    assert len(engine.pin(GENERATION.id).search(ask("word", limit=2000))) == 1000
assert failed >= 5, failed
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(writer.publish().seq, len(engine.check(GENERATION.id)))
"""


def test_a_real_limit_of_the_file_size_is_survived(tmp_path: Path, root: Path) -> None:
    """The operating system refuses, inside tantivy too."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["1", "0"], done.stderr
