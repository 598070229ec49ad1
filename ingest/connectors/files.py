"""Files in a folder (or one file): listed by scan, watched by inotify.

Symbolic links, pipes and devices are never followed or opened: every path is opened component by component
without following links, so nothing outside the folder can be read.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from time import time
from urllib.parse import quote, unquote_to_bytes, urlsplit

import watchfiles

from ingest.errors import Conflict, DocumentTooLarge, ItemNotSettled, ItemUnreadable, SourceUnreachable
from ingest.model import Fetched, Item
from ingest.parse.registry import media_type_of

_TEMPORARY = (".*", "~$*", "*~", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.swp", "*.swx", "#*#")
_GLOBS = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_SLICE = 1 << 20
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FilesOptions:
    """Options of a `files` source.

    A glob without `/` is matched against the name in every folder, any other against the path below the folder:
    there `*` stays in one folder and `**/` spans any number of them.
    """

    include: tuple[str, ...] = ("**/*",)
    exclude: tuple[str, ...] = ()
    settle_s: float = 1.0
    max_bytes: int = MAX_DOCUMENT_BYTES

    @classmethod
    def of(cls, options: dict[str, object]) -> FilesOptions:
        """From a source's options. Raises Conflict on an unknown or ill-typed option."""
        values: dict[str, object] = {}
        for key, value in options.items():
            if key in ("include", "exclude") and isinstance(value, Sequence) and not isinstance(value, str):
                globs = tuple(str(glob) for glob in value)
                for glob in globs:
                    _matcher(glob)  # a broken one is refused when the source is made, not at its first sync
                values[key] = globs
            elif key in ("settle_s", "max_bytes") and isinstance(value, int | float) and value >= 0:
                values[key] = value
            elif key != "parser":
                raise Conflict(
                    f"Option {key!r} of a files source cannot be {value!r}.",
                    hint="Options: include and exclude (lists of globs), settle_s, max_bytes, parser.",
                )
        return cls(**values)  # type: ignore[arg-type]


def file_uri(path: Path) -> str:
    """`file:///...` of an absolute path; names that are not UTF-8 survive."""
    return "file://" + quote(os.fsencode(path))


def uri_path(uri: str) -> Path:
    """The inverse of file_uri. Raises Conflict."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise Conflict(f"{uri} is not a file URI.", hint="Give an absolute path as file:///folder.")
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


class FilesConnector:
    """The seam Connector on the local file system."""

    def __init__(self, uri: str, options: FilesOptions | None = None) -> None:
        self.root = uri_path(uri)
        self.options = options or FilesOptions()

    def list(self) -> Iterator[Item]:
        """Every regular file below the folder, with its fingerprint. Raises SourceUnreachable."""
        try:
            root = os.stat(self.root)
            if stat.S_ISREG(root.st_mode):
                yield self._item(self.root, root)
                return
            yield from self._scan(self.root, "")
        except OSError as error:
            raise SourceUnreachable(f"{_shown(error.filename or self.root)}: {error.strerror}.") from error

    def _scan(self, folder: Path, below: str) -> Iterator[Item]:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            relative = below + entry.name
            if _is_temporary(entry.name):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from self._scan(folder / entry.name, relative + "/")
                elif entry.is_file(follow_symlinks=False) and self._wanted(relative):
                    yield self._item(folder / entry.name, entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue  # deleted while we looked: the confirming listing decides

    def _wanted(self, relative: str) -> bool:
        def matches(globs: Sequence[str]) -> bool:
            return any(_matcher(glob).fullmatch(relative) for glob in globs)

        return matches(self.options.include) and not matches(self.options.exclude)

    def _item(self, path: Path, found: os.stat_result) -> Item:
        return Item(
            uri=file_uri(path),
            name=path.name,
            fingerprint=_fingerprint(found),
            modified_at=datetime.fromtimestamp(found.st_mtime, UTC),
            size=found.st_size,
        )

    def fetch(self, item: Item) -> Fetched:
        """The bytes, if the file did not change while it was read nor a moment before."""
        path = uri_path(item.uri)
        name = _shown(path.name)
        try:
            handle = self._open(path)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise ItemUnreadable(f"{name} is a link or not a regular file.") from error
            raise ItemUnreadable(f"{name}: {error.strerror}.") from error
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            os.close(handle)
            raise ItemUnreadable(f"{name} is not a regular file.")
        with os.fdopen(handle, "rb") as file:
            self._check(name, before)
            try:
                data = file.read(self.options.max_bytes + 1)
            except OSError as error:
                raise ItemUnreadable(f"{name}: {error.strerror}.") from error
            after = os.fstat(file.fileno())
        if _fingerprint(before) != _fingerprint(after) or len(data) != after.st_size:
            raise ItemNotSettled(f"{name} changed while it was read.")
        return Fetched(
            data=data,
            fingerprint=_fingerprint(after),
            media_type=media_type_of(path.name, data[:_SLICE]),
            modified_at=datetime.fromtimestamp(after.st_mtime, UTC),
        )

    def _check(self, name: str, found: os.stat_result) -> None:
        if abs(time() - found.st_mtime) < self.options.settle_s:
            raise ItemNotSettled(f"{name} was written a moment ago.")
        if found.st_size > self.options.max_bytes:
            raise DocumentTooLarge(f"{name} has {found.st_size:,} bytes; the limit is {self.options.max_bytes:,}.")

    def _open(self, path: Path) -> int:
        """Open below the root without following a link anywhere on the way."""
        if not path.is_relative_to(self.root) or ".." in path.parts:
            raise ItemUnreadable(f"{_shown(path)} is not below {_shown(self.root)}.")
        if path == self.root:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        parts = path.relative_to(self.root).parts
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = inner
            return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)

    def _concerns(self, _change: watchfiles.Change, path: str) -> bool:
        """Whether an event is about something that would be listed (watchfiles' own filter drops node_modules)."""
        below = Path(path).parts[len(self.root.parts) :]
        return not any(_is_temporary(name) for name in below)

    def watch(self, changed: Callable[[], None], stop: Callable[[], bool]) -> None:
        """Call `changed` after each burst of events below the folder, until `stop()`.

        Raises SourceUnreachable when the folder cannot be watched.
        """
        try:
            for changes in watchfiles.watch(
                self.root,
                watch_filter=self._concerns,
                debounce=300,
                step=50,
                rust_timeout=500,
                yield_on_timeout=True,
                raise_interrupt=False,
            ):
                if stop():
                    return
                if changes:
                    changed()
        # RuntimeError: what the watcher itself could not do; ValueError: it cannot take a name that is not UTF-8
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceUnreachable(f"{_shown(self.root)} cannot be watched: {_shown(error)}.") from error


def _is_temporary(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _TEMPORARY)


def _shown(name: object) -> str:
    """A name that can be stored and printed: bytes that are not UTF-8 are replaced."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _matcher(glob: str) -> re.Pattern[str]:
    """What a glob means, see FilesOptions. Raises Conflict."""
    pattern = "(?:.*/)?" if "/" not in glob else ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\])", glob):
        if piece.startswith("[") and len(piece) > 2:
            inside = piece[1:-1].replace("\\", r"\\")
            pattern += "[" + ("^/" + inside[1:] if inside[0] == "!" else inside.replace("^", r"\^")) + "]"
        else:
            pattern += _GLOBS.get(piece) or re.escape(piece)
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise Conflict(f"{glob!r} is not a glob: {error}.", hint='Globs look like "**/*.md".') from error


def _fingerprint(found: os.stat_result) -> str:
    """Changes with every write, rename or replacement, so that an equal one surely means unchanged."""
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
