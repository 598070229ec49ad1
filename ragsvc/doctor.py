"""What is wrong with an installation, and what to type."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import RagsvcError
from ingest.parse.jail import Jail
from ingest.verify import catalogue_problems
from ragsvc.bootstrap import build
from ragsvc.settings import Settings, unknown_variables

_LEAST_FREE_BYTES = 512 * 1024 * 1024
_PARTS = ("faiss", "tantivy", "onnxruntime", "tokenizers", "pysqlite3", "kreuzberg", "pypdfium2", "watchfiles")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it is well, what was found, and the command that cures it."""

    check: str
    ok: bool
    found: str
    cure: str = ""


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Every check. None of them changes anything but the data folder, which is made if it is missing."""
    checks: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
        ("packages", _packages),
        ("settings", _variables),
        ("data folder", _data),
        ("disk", _disk),
        ("model", _model),
        ("parsers", _parsers),
        ("address", _address),
        ("catalogue", _catalogue),
    )
    findings = []
    for name, check in checks:
        try:
            findings.append(check(settings))
        except RagsvcError as error:
            findings.append(Finding(name, False, error.message, error.hint))
    return tuple(findings)


def _packages(_settings: Settings) -> Finding:
    missing = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    return Finding("packages", not missing, f"missing: {', '.join(missing)}" if missing else "all there", "make setup")


def _variables(_settings: Settings) -> Finding:
    unknown = unknown_variables()
    found = f"unknown: {', '.join(unknown)}" if unknown else "all known"
    return Finding("settings", not unknown, found, f"unset {' '.join(unknown)}" if unknown else "")


def _data(settings: Settings) -> Finding:
    folder = settings.data
    at: Path = folder if folder.exists() else next(p for p in folder.absolute().parents if p.exists())
    ok = os.access(at, os.W_OK)
    return Finding("data folder", ok, str(folder), "" if ok else f"chmod u+w {at}  (or set RAGSVC_DATA)")


def _disk(settings: Settings) -> Finding:
    at = next(p for p in (settings.data.absolute(), *settings.data.absolute().parents) if p.exists())
    free = shutil.disk_usage(at).free
    found = f"{free // 1024**2:,} MiB free"
    return Finding("disk", free >= _LEAST_FREE_BYTES, found, "Free some space, or set RAGSVC_DATA to a larger disk.")


def _model(settings: Settings) -> Finding:
    from indexes.embedder import open_embedder

    embedder = open_embedder(settings.embedder, models_dir=settings.models_dir, threads=settings.threads)
    vector = embedder.encode_query("a question to try the model with")
    ok = vector.shape == (1, embedder.dimensions)
    return Finding("model", ok, f"{embedder.id}, {embedder.dimensions} dimensions", "ragsvc model install --force")


def _parsers(_settings: Settings) -> Finding:
    with Jail(workers=1) as jail:
        parsed = jail.parse(b"# It works\n\nA sentence.\n", media_type="text/markdown", name="try.md")
    return Finding("parsers", parsed.title == "It works", "the jail parses", "make setup")


def _address(settings: Settings) -> Finding:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            found = f"{settings.host}:{settings.port}: {error.strerror} (a running service is fine)"
            busy = error.errno == 98
            return Finding("address", busy, found, "" if busy else "ragsvc up --host 127.0.0.1")
    return Finding("address", True, f"{settings.host}:{settings.port} is free")


def _catalogue(settings: Settings) -> Finding:
    with build(settings, writable=False) as service:
        problems = list(catalogue_problems(service.catalog))
        for generation in service.catalog.collections.generations():
            problems += service.follower.verify(generation)[0]
        version = service.catalog.sqlite_version()
    if problems:
        return Finding("catalogue", False, problems[0].what, problems[0].hint)
    return Finding("catalogue", True, f"sound; SQLite {version}; the indexes agree")
