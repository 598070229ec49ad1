"""Number 3: killed at every step of ingest, publish, merge, recovery and repair. Each leaves what is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.contracts.killable import Killable
from tests.faults.ingest_churn import State

CRASHES = {  # act -> where a merge was killed before it; None: the newest snapshot is damaged instead
    "recover sealing": "write done /indexes/gen/segments/.aside-seg/manifest.json",
    "recover sealed": "rename done /indexes/gen/segments/seg",
    "recover published": "rename done /indexes/gen/snapshots/#.json",
    "recover damaged": None,
}
LATER = 8
"""One point in so many is tried again where it is reached for the last time."""


@dataclass(frozen=True)
class Scene:
    """An act, and the installation as it is when it begins. `docs` is not changed by any act."""

    act: str
    folder: Path
    acked: State

    @property
    def docs(self) -> Path:
        return self.folder / "docs"


class Stage:
    """Scenes are prepared, recorded and killed here. Two processes that fork workers share the work."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._all = [Killable("tests.faults.failpoints", root) for _ in range(2)]
        self._free: SimpleQueue[Killable] = SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def close(self) -> None:
        for worker in self._all:
            worker.__exit__(None, None, None)

    def _say(self, word: str, **arguments: object) -> Any:
        worker = self._free.get()
        try:
            worker.begin(**arguments)
            lines, status = worker.rest(300)
        finally:
            self._free.put(worker)
        assert status == 0, f"{arguments['what']} of {arguments['act']} failed: {lines}; its traceback is below"
        (said,) = (line.removeprefix(word) for line in lines if line.startswith(word))
        return json.loads(said)

    def scene(self, act: str) -> Scene:
        """Prepare an act."""
        folder = self._folder / act.replace(" ", "-")
        for name in ("data", "docs"):
            (folder / name).mkdir(parents=True)
        acked = self._say("acked", what="prepare", act=act, data=f"{folder / 'data'}", docs=f"{folder / 'docs'}")
        found = Scene(act, folder, acked)
        if (point := CRASHES.get(act)) is not None:
            merging = replace(found, act="merge")
            (left,) = self.survive(merging, [(f"merge: {point}", 1)], keep=True)
            shutil.rmtree(folder / "data")
            Path(left).rename(folder / "data")
        elif act == "recover damaged":
            newest = max((folder / "data" / "indexes").glob("gen_*/snapshots/*.json"))
            newest.write_bytes(newest.read_bytes()[:-9])
        return found

    def points(self, scene: Scene) -> dict[str, int]:
        """Name -> how often it is reached, of every point of an act."""
        data = shutil.copytree(scene.folder / "data", scene.folder / "recorded" / "data")
        return self._say("points", what="record", act=scene.act, data=f"{data}", docs=f"{scene.docs}")

    def survive(self, scene: Scene, tries: Sequence[tuple[str, int]], **more: object) -> Sequence[str]:
        """Kill the act at each of these points; all that is left is sound. Returns the folders that were looked at."""
        said = {"act": scene.act, "acked": scene.acked, "tries": list(tries), **more}
        return self._say("states", what="survive", data=f"{scene.folder / 'data'}", docs=f"{scene.docs}", **said)


def assert_every_point_is_survived(folder: Path, root: Path, acts: Sequence[str], *, least: int) -> None:
    stage = Stage(folder, root)
    visited: set[str] = set()
    states = 0

    def visit(scene: Scene, points: dict[str, int]) -> int:
        tries = [(point, 1) for point in points]
        tries += [(point, times) for point, times in list(points.items())[::LATER] if times > 1]
        parts = [tries[: len(tries) // 2], tries[len(tries) // 2 :]]
        return sum(len(looked) for looked in pool.map(lambda part: stage.survive(scene, part), parts))

    try:
        with ThreadPoolExecutor(2) as pool:
            for scene in pool.map(stage.scene, acts):
                points = {point: times for point, times in stage.points(scene).items() if point not in visited}
                assert points, f"{scene.act} reaches no point of its own"
                states += visit(scene, points)
                visited |= points.keys()
    finally:
        stage.close()
    assert len(visited) >= least
    assert states >= least / 8, "the kills left too few different states to prove anything"


@pytest.mark.slow
def test_a03_failpoints_of_publishing(tmp_path: Path, root: Path) -> None:
    assert_every_point_is_survived(tmp_path, root, ["publish"], least=50)


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("acts", "least"),
    [(("create", "add", "change", "push"), 50), (("merge",), 60), (("repair",), 60), (tuple(CRASHES), 30)],
    ids=["ingest", "merge", "repair", "recovery"],
)
def test_a03_failpoints(tmp_path: Path, root: Path, acts: tuple[str, ...], least: int) -> None:
    assert_every_point_is_survived(tmp_path, root, acts, least=least)
