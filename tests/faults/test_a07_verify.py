"""ACCEPTANCE 7: whatever is wrong with an index is found, nothing else is, and what is damaged never answers."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from indexes.embedded import EmbeddedEngine
from indexes.errors import GenerationUnknown
from indexes.model import Chunk, Close, Describe, Drop, Op, Put
from indexes.protocols import IndexWriter
from ingest.verify import catalogue_problems
from tests.contracts.ingest_parts import Clock, Installation, make_draft
from tests.contracts.installation import ragsvc, workshop
from tests.unit.ingest.test_follow import fill, go
from tests.unit.ingest.test_standin import asked, back, followed_by, nearest

FLIPS = 100
Answers = list[list[tuple[str, str, str]]]


def answers(app: Installation) -> Answers:
    return [app.hits(words) for words in ("garden tea", "parking window", "coffee", "changed badge")]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answers]:
    """Four segments, two snapshots, versions that ended, documents that only some may read."""
    folder = tmp_path_factory.mktemp("sound")
    app = Installation(folder, clock=Clock())
    source = app.source()
    for batch in range(3):
        fill(app, source, 12 + batch)
        go(app, hours=1)
        app.record(source, make_draft(f"d{batch}", f"The garden was changed {batch}.", access=frozenset({"user:ann"})))
        app.record(source, make_draft(f"m{batch}", f"The tea was changed {batch}.", metadata={"n": batch, "of": "tea"}))
        app.follower.publish()
    app.catalog.recording.retire([app.document(source, "d9").id], now=app.clock())
    app.follower.publish()
    assert app.follower.check(app.generation) == ()
    expected = answers(app)
    app.close()
    return folder, expected


def copied(sound: tuple[Path, Answers], folder: Path) -> Path:
    shutil.copytree(sound[0], folder)
    return folder


def opened(folder: Path) -> Installation:
    clock = Clock()
    clock.go(hours=3)
    return Installation(folder, clock=clock)


def stored_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "indexes").rglob("*") if path.is_file() and path.stat().st_size)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def lose(path: Path, rng: random.Random) -> None:
    path.unlink()


def swap(path: Path, rng: random.Random) -> None:
    """The bytes of a file of the same kind from elsewhere, else of any other."""
    others = [other for other in path.parents[3].rglob("*") if other.is_file() and other != path]
    alike = [other for other in others if other.suffix == path.suffix] or others
    different = [other for other in alike if other.read_bytes() != path.read_bytes()] or others
    path.write_bytes(rng.choice(different).read_bytes())


def assert_never_served(folder: Path, expected: Answers) -> None:
    """A service that starts on it answers as if nothing had happened, and has mended it when it ends."""
    app = opened(folder)
    assert answers(app) == expected
    app.follower.publish()
    assert app.follower.check(app.generation) == ()
    app.close()


def test_a07_100_of_100_flipped_bits_are_found(sound: tuple[Path, Answers], tmp_path: Path) -> None:
    rng = random.Random(7)
    folder = copied(sound, tmp_path / "copy")
    engine, files = EmbeddedEngine(folder / "indexes"), stored_files(folder)
    generation = files[0].relative_to(folder / "indexes").parts[0]
    seen = 0
    for number in range(FLIPS):
        path = files[number % len(files)]
        before = path.read_bytes()
        flip(path, rng)
        problems = engine.check(generation)
        seen += bool(problems)
        assert problems, f"a flipped bit in {path.name} was not found"
        path.write_bytes(before)
    assert seen == FLIPS
    assert engine.check(generation) == ()


@pytest.mark.parametrize("damage", [cut, lose, swap])
def test_a07_files_cut_lost_or_swapped_are_found(
    sound: tuple[Path, Answers], tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    rng = random.Random(8)
    app = opened(copied(sound, tmp_path / "copy"))
    followed_by(app).open()  # the process that serves it also knows which snapshot must be there
    for path in stored_files(app.folder):
        before = path.read_bytes()
        damage(path, rng)
        newest = max((app.folder / "indexes").rglob("snapshots/*.json"), default=path)
        older = damage is lose and path.parent.name == "snapshots" and path.suffix == ".json" and path < newest
        assert bool(app.engine.check(app.generation.id)) != older, path  # a spare one less is no damage
        path.write_bytes(before)
    assert app.engine.check(app.generation.id) == ()
    shutil.rmtree(app.folder / "indexes" / app.generation.id)
    assert app.engine.check(app.generation.id)
    app.close()


@pytest.mark.acceptance
@pytest.mark.parametrize("damage", [flip, cut, lose, swap])
def test_a07_what_is_damaged_is_never_served(
    sound: tuple[Path, Answers], tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    rng = random.Random(9)
    files = [path.relative_to(sound[0]) for path in stored_files(sound[0])]
    kinds = {(path.parts[2], path.suffix): path for path in files}
    for number, path in enumerate(kinds.values()):
        folder = copied(sound, tmp_path / str(number))
        damage(folder / path, rng)
        assert_never_served(folder, sound[1])


@pytest.mark.parametrize("place", ["vectors.f32", "rows", "snapshots/"])
def test_a07_damage_under_a_running_service_is_not_served(
    sound: tuple[Path, Answers], tmp_path: Path, place: str
) -> None:
    app = opened(copied(sound, tmp_path / "copy"))
    assert answers(app) == sound[1]
    path = next(path for path in reversed(stored_files(app.folder)) if place in path.as_posix())
    flip(path, random.Random(3))
    assert app.follower.check(app.generation)
    followed = followed_by(app)
    with followed._mending:  # not mended yet
        view = app.follower.view(app.generation.id)
        assert view.why_exact is not None
        assert view.why_exact.startswith("it is damaged")
        assert asked(app, "garden tea") == nearest(app, "garden tea")
        again = app.follower.check(app.generation)
        assert any("does not answer" in problem.what for problem in again)
    back(app)
    assert answers(app) == sound[1]
    assert app.follower.check(app.generation) == ()
    assert app.embedder.texts == []
    app.follower.close()
    app.close()


# ---------------------------------------------------------------- catalogue against index


def _whole(app: Installation, version_id: str) -> Put:
    states = app.catalog.changes.version_states([version_id])
    return app.follower.entries.puts(states, app.generation)[0]


def planted(app: Installation, kind: str, writer: IndexWriter) -> list[Op]:
    """Operations that make the index wrong."""
    version_id = app.catalog.changes.version_ids(app.generation.id)[3]
    put = _whole(app, version_id)
    first, *others = put.chunks
    stray = Chunk("chk_stray", version_id, 99, first.terms, first.vector)
    described = app.follower.entries.described([put.document_id])[0]
    wrong: dict[str, Op] = {
        "a missing vector": Drop(version_id),
        "an extra vector": replace(put, chunks=(*put.chunks, stray)),
        "stale words": replace(put, chunks=(replace(first, terms=("stale", *first.terms)), *others)),
        "a wrong vector": replace(put, chunks=(replace(first, vector=-first.vector), *others)),
        "a wrong begin": replace(put, valid_from=put.valid_from - 1),
        "a wrong end": Close(version_id, put.valid_from + 1, writer.seq),
        "a wrong access list": Describe(put.document_id, frozenset({"public", "user:eve"}), described.metadata),
        "wrong metadata": Describe(put.document_id, described.access, {"n": 99}),
    }
    return [wrong[kind]]


KINDS = {
    "a missing vector": "missing from the index",
    "an extra vector": "not in the catalogue",
    "stale words": "different",
    "a wrong vector": "different",
    "a wrong begin": "different",
    "a wrong end": "different",
    "a wrong access list": "another access list",
    "wrong metadata": "other metadata",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a07_an_index_that_disagrees_with_the_catalogue_is_found_and_mended(
    sound: tuple[Path, Answers], tmp_path: Path, kind: str
) -> None:
    app = opened(copied(sound, tmp_path / "copy"))
    writer = app.engine.open(app.generation, writable=True)
    writer.apply(planted(app, kind, writer), seq=writer.seq + 1)
    writer.publish()
    assert app.engine.check(app.generation.id) == (), "every byte is as it was written"
    (problem,), repaired = app.follower.verify(app.generation)
    assert KINDS[kind] in problem.what
    assert problem.details
    assert not repaired
    assert app.follower.verify(app.generation, repair=True) == ((), True)
    assert app.follower.verify(app.generation, repair=True) == ((), False)
    assert answers(app) == sound[1]
    app.follower.close()
    app.close()


@pytest.mark.acceptance
def test_a07_50_clean_runs_give_no_false_alarm_while_all_goes_on(tmp_path: Path) -> None:
    """Documents come, change, are hidden, described and deleted; segments are published and merged."""
    app = Installation(tmp_path)
    source = app.source()
    fill(app, source, 30)
    stop = threading.Event()
    rng = random.Random(4)

    def write() -> None:
        number = 0
        while not stop.is_set():
            name = f"d{rng.randrange(40)}"
            access = frozenset({rng.choice(["public", "user:ann"])})
            app.record(source, make_draft(name, f"The rule {number}.", access=access, metadata={"n": number % 3}))
            if number % 7 == 0:
                app.catalog.recording.retire([app.document(source, name).id], now=app.clock())
            if number % 5 == 0:
                app.follower.publish()
            number += 1
            stop.wait(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert [app.follower.check(app.generation) for _ in range(50)] == [()] * 50
    finally:
        stop.set()
        writer.join()
    app.close()


# ---------------------------------------------------------------- the command


@pytest.mark.acceptance
def test_a07_the_command_names_the_damage_and_mends_it(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        for number in range(5):
            shop.push(f"{number}.md", f"# Number {number}\n\nThe notice period is {number} months.")
        before = [result.id for result in shop.ask("notice period").results]
    (path, *_) = (tmp_path / "indexes").rglob("vectors.f32")
    flip(path, random.Random(1))
    found = ragsvc(tmp_path, "verify", "--json")
    assert found.returncode == 1
    assert "vectors.f32" in found.stdout
    assert "ragsvc verify --repair" in found.stderr
    mended = ragsvc(tmp_path, "verify", "--repair")
    assert mended.returncode == 0, mended.stderr
    assert "repaired" in mended.stdout
    with workshop(tmp_path) as shop:
        assert [result.id for result in shop.ask("notice period").results] == before
        assert shop.ask("notice period").warnings == ()


def test_a07_a_damaged_catalogue_needs_a_backup(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        catalog = shop.service.catalog
        shop.push("a.md", "# One\n\nA text.")
        assert catalogue_problems(catalog) == ()
        with catalog._db.write() as conn:
            conn.exec_driver_sql("UPDATE collections SET generation_id = 'gen_gone'")
        (problem,) = catalogue_problems(catalog)
        assert "gen_gone" in problem.what
        assert "Restore a backup" in problem.hint
        with pytest.raises(GenerationUnknown, match="'handbook' cannot be searched") as raised:
            shop.ask("a text")
        assert "backup" in raised.value.hint
