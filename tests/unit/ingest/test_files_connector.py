"""Files in a folder, and what else can lie there: nothing outside is read, nothing hangs, nothing half-written."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import RagsvcError
from ingest.blobs import FolderBlobStore
from ingest.connectors.files import FilesConnector, FilesOptions, file_uri, uri_path
from ingest.connectors.push import PushConnector
from ingest.errors import Conflict, DocumentTooLarge, ItemNotSettled, ItemUnreadable, SourceUnreachable
from ingest.model import Fetched, Item, Push
from tests.contracts.connector import ConnectorContract, Place
from tests.contracts.ingest_parts import START, write


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.connector = FilesConnector(file_uri(root), FilesOptions(settle_s=0))

    def put(self, name: str, data: bytes) -> None:
        time.sleep(0.01)  # the clock of the file system ticks every few milliseconds
        (self.root / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def break_off(self) -> None:
        shutil.rmtree(self.root)


class TestFilesConnector(ConnectorContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Folder(tmp_path / "docs")


class Pushed:
    """One pushed document at a time."""

    def __init__(self, folder: Path) -> None:
        self.blobs = FolderBlobStore(folder)
        self.put("none.txt", b"")

    def put(self, name: str, data: bytes) -> None:
        push = Push("src_p", f"team/{name}", self.blobs.put(data), "text/plain", None, None, None, {}, pushed_at=START)
        self.connector = PushConnector(push, self.blobs)

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def break_off(self) -> None:
        raise NotImplementedError


class TestPushConnector(ConnectorContract):
    names = ("a.txt",)
    lists_everything = False
    has_events = False

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Pushed(tmp_path)

    @pytest.mark.parametrize(
        ("said", "name", "data", "expected"),
        [
            ("text/markdown", "a.txt", b"# x", "text/markdown"),
            ("", "a.md", b"# x", "text/markdown"),
            ("application/octet-stream", "a.html", b"<html>", "text/html"),
            ("application/x-www-form-urlencoded", "a", b"words", "text/plain"),
            ("", "a.bin", b"%PDF-1.7", "application/pdf"),
        ],
    )
    def test_the_type_is_what_was_said_or_what_it_looks_like(
        self, tmp_path: Path, said: str, name: str, data: bytes, expected: str
    ) -> None:
        blobs = FolderBlobStore(tmp_path)
        push = Push("s", name, blobs.put(data), said, None, None, None, {}, pushed_at=START)
        connector = PushConnector(push, blobs)
        (item,) = connector.list()
        assert connector.fetch(item).media_type == expected

    def test_bytes_that_were_lost_are_an_unreadable_item(self, tmp_path: Path) -> None:
        place = Pushed(tmp_path)
        (item,) = place.connector.list()
        shutil.rmtree(tmp_path)
        with pytest.raises(ItemUnreadable, match="no blob"):
            place.connector.fetch(item)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def connector(docs: Path, **options: Any) -> FilesConnector:
    return FilesConnector(file_uri(docs), FilesOptions.of({"settle_s": 0, **options}))


def listed(docs: Path, **options: Any) -> list[str]:
    return [os.fsdecode(uri_path(item.uri).relative_to(docs)) for item in connector(docs, **options).list()]


def fetch(docs: Path, name: str, **options: Any) -> Fetched:
    found = connector(docs, **options)
    (item,) = [item for item in found.list() if item.name == name]
    return found.fetch(item)


# ---------------------------------------------------------------- what is taken


TREE = ("a.md", "b.txt", "sub/c.md", "sub/deep/d.md", "sub/deep/e.TXT", "old/f.md")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set(TREE)),
        ({"include": ["**/*.md"]}, {"a.md", "sub/c.md", "sub/deep/d.md", "old/f.md"}),
        ({"include": ["*.md"]}, {"a.md", "sub/c.md", "sub/deep/d.md", "old/f.md"}),
        ({"include": ["sub/*.md"]}, {"sub/c.md"}),
        ({"include": ["sub/**/*.md"]}, {"sub/c.md", "sub/deep/d.md"}),
        ({"include": ["sub/**"]}, {"sub/c.md", "sub/deep/d.md", "sub/deep/e.TXT"}),
        ({"include": ["?.txt"]}, {"b.txt"}),
        ({"include": ["[ab].*"]}, {"a.md", "b.txt"}),
        ({"include": ["[!ab].*"]}, {"sub/c.md", "sub/deep/d.md", "sub/deep/e.TXT", "old/f.md"}),
        ({"exclude": ["old/**", "*.txt"]}, {"a.md", "sub/c.md", "sub/deep/d.md", "sub/deep/e.TXT"}),
        ({"include": ["*.md"], "exclude": ["**/deep/*"]}, {"a.md", "sub/c.md", "old/f.md"}),
        ({"include": []}, set()),
    ],
)
def test_globs(docs: Path, options: dict[str, Any], expected: set[str]) -> None:
    for name in TREE:
        write(docs / name, name)
    assert set(listed(docs, **options)) == expected


@given(st.text(max_size=12))
def test_any_glob_matches_or_is_refused(glob: str) -> None:
    said = "a glob"
    try:
        FilesOptions.of({"include": [glob]})
    except Conflict as error:
        said = error.message
    assert "glob" in said


@pytest.mark.parametrize(
    "options",
    [
        {"colour": 1},
        {"include": "*.md"},
        {"settle_s": -1},
        {"settle_s": "1"},
        {"max_bytes": -5},
        {"include": ["[z-a]"]},
    ],
)
def test_unknown_and_ill_typed_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Conflict):
        FilesOptions.of(options)


def test_options_are_read() -> None:
    options = FilesOptions.of({"include": ["a"], "exclude": ["b"], "settle_s": 2, "max_bytes": 9, "parser": "default"})
    assert options == FilesOptions(("a",), ("b",), 2, 9)


def test_temporary_and_hidden_names_are_left_out(docs: Path) -> None:
    names = (".hidden", "~$report.docx", "backup~", "x.tmp", "x.part", "x.partial", "x.crdownload", ".a.swp", "#x#")
    for name in (*names, "kept.txt", "tmp.txt", "a#b.txt"):
        write(docs / name, "x")
    write(docs / ".git" / "config.txt", "x")
    assert set(listed(docs)) == {"kept.txt", "tmp.txt", "a#b.txt"}


def test_one_file_can_be_a_source(docs: Path) -> None:
    path = write(docs / "only.md", "# One")
    write(docs / "other.md", "# Two")
    (item,) = connector(path).list()
    assert uri_path(item.uri) == path
    assert connector(path).fetch(item).data == b"# One"


def test_an_empty_folder_lists_nothing(docs: Path) -> None:
    assert listed(docs) == []


def test_an_item_says_when_and_how_large(docs: Path) -> None:
    path = write(docs / "a.txt", "12345", age_s=500)
    (item,) = connector(docs).list()
    assert item.size == 5
    assert item.modified_at is not None
    assert item.modified_at.timestamp() == pytest.approx(path.stat().st_mtime)
    assert fetch(docs, "a.txt").modified_at == item.modified_at


# ---------------------------------------------------------------- names


NAMES = [
    b"caf\xe9.txt",
    "東京 🙂.md".encode(),
    b"per%20cent.txt",
    b"a?b#c&d.txt",
    b"x" * 251 + b".txt",
    b"new\nline.txt",
]


@pytest.mark.parametrize("raw", NAMES, ids=range(len(NAMES)))
def test_any_name_can_be_listed_fetched_and_told(docs: Path, raw: bytes) -> None:
    with open(os.path.join(os.fsencode(docs), raw), "wb") as file:
        file.write(b"content")
    found = connector(docs)
    (item,) = found.list()
    assert found.fetch(item).data == b"content"
    assert os.fsencode(uri_path(item.uri)).endswith(raw)
    assert item.uri.isascii()
    strict = FilesConnector(file_uri(docs), FilesOptions(settle_s=60))
    with pytest.raises(ItemNotSettled) as caught:
        strict.fetch(item)
    caught.value.message.encode()  # it will be stored and shown


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_path_survives_as_a_uri(name: bytes) -> None:
    path = Path(os.fsdecode(b"/root/" + name))
    assert uri_path(file_uri(path)) == path


@pytest.mark.parametrize("uri", ["/plain", "http://host/x", "file://host/x", "file:relative", "file:///"[:-1]])
def test_what_is_no_file_uri_is_refused(uri: str) -> None:
    with pytest.raises(Conflict):
        uri_path(uri)


# ---------------------------------------------------------------- what must not be followed or opened


def test_a28_links_pipes_sockets_and_loops_are_never_listed(docs: Path, tmp_path: Path, short_path: Path) -> None:
    secret = write(tmp_path / "secret.txt", "outside")
    write(docs / "real.txt", "inside")
    (docs / "link.txt").symlink_to(secret)
    (docs / "dangling.txt").symlink_to(tmp_path / "nothing")
    (docs / "linked folder").symlink_to(tmp_path)
    (docs / "loop").symlink_to(docs)
    (docs / "self.txt").symlink_to(docs / "self.txt")
    os.mkfifo(docs / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short_path / "socket.txt"))
        (short_path / "socket.txt").rename(docs / "socket.txt") if os.stat(docs).st_dev == os.stat(
            short_path
        ).st_dev else None
        started = time.monotonic()
        assert listed(docs) == ["real.txt"]
    assert time.monotonic() - started < 5


def swap(docs: Path, name: str, replacement: Any) -> Item:
    """An item that was a regular file when it was listed, and is something else when it is fetched."""
    path = write(docs / name, "was a file")
    (item,) = [item for item in connector(docs).list() if uri_path(item.uri) == path]
    path.unlink()
    replacement(path)
    return item


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "folder link"])
def test_a28_what_became_something_else_is_not_opened(docs: Path, tmp_path: Path, what: str) -> None:
    secret = write(tmp_path / "outside" / "a.txt", "outside")
    if what == "folder link":
        write(docs / "sub" / "a.txt", "inside")
        (item,) = connector(docs).list()
        shutil.rmtree(docs / "sub")
        (docs / "sub").symlink_to(secret.parent)
    else:
        item = swap(
            docs, "a.txt", {"link": lambda p: p.symlink_to(secret), "pipe": os.mkfifo, "folder": os.mkdir}[what]
        )
    results: list[object] = []

    def read() -> None:
        try:
            results.append(connector(docs).fetch(item))
        except RagsvcError as error:
            results.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert len(results) == 1, "it hangs"
    assert isinstance(results[0], ItemUnreadable)


@pytest.mark.parametrize("below", ["../secret.txt", "sub/../../secret.txt", "/etc/hostname", "../docs2/x.txt"])
def test_a28_nothing_outside_the_folder_can_be_asked_for(docs: Path, tmp_path: Path, below: str) -> None:
    write(tmp_path / "secret.txt", "outside")
    write(tmp_path / "docs2" / "x.txt", "outside")
    (docs / "sub").mkdir()
    uri = file_uri(Path(below)) if below.startswith("/") else file_uri(docs) + "/" + below
    with pytest.raises(ItemUnreadable, match="not below"):
        connector(docs).fetch(Item(uri, "x", "f"))


# ---------------------------------------------------------------- settled


def test_a_file_that_was_just_written_is_not_settled(docs: Path) -> None:
    write(docs / "a.txt", "x", age_s=0)
    with pytest.raises(ItemNotSettled, match="a moment ago") as caught:
        fetch(docs, "a.txt", settle_s=1)
    assert caught.value.retryable
    write(docs / "a.txt", "x", age_s=1.1)
    assert fetch(docs, "a.txt", settle_s=1).data == b"x"


def test_a_file_from_the_future_is_settled(docs: Path) -> None:
    write(docs / "a.txt", "x", age_s=-3600)  # written by a machine with another clock
    assert fetch(docs, "a.txt", settle_s=1).data == b"x"


@pytest.mark.parametrize("change", ["append", "truncate", "rewrite", "replace"])
def test_a_file_that_changes_while_it_is_read_is_not_settled(
    docs: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = write(docs / "a.txt", "before" * 100)
    found = connector(docs)
    (item,) = found.list()
    real = FilesConnector._check

    def check(self: FilesConnector, name: str, stat: os.stat_result) -> None:
        real(self, name, stat)
        time.sleep(0.01)
        if change == "append":
            with path.open("a") as file:
                file.write("more")
        elif change == "truncate":
            os.truncate(path, 3)
        elif change == "rewrite":
            path.write_text("after!" * 100)
        else:
            write(docs / "other.txt", "after!" * 100).rename(path)

    with monkeypatch.context() as patch:
        patch.setattr(FilesConnector, "_check", check)
        with pytest.raises(ItemNotSettled, match="changed while"):
            found.fetch(item)
    assert found.fetch(item).data == path.read_bytes()


def test_a_file_over_the_limit_is_too_large_and_not_read(docs: Path) -> None:
    write(docs / "a.txt", "x" * 101)
    with pytest.raises(DocumentTooLarge, match="101"):
        fetch(docs, "a.txt", max_bytes=100)
    write(docs / "a.txt", "x" * 100)
    assert len(fetch(docs, "a.txt", max_bytes=100).data) == 100


# ---------------------------------------------------------------- what cannot be read


@pytest.fixture
def plain_user(docs: Path) -> Any:
    """Root may read everything: give the rights up while the test asks."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (docs, *docs.parents):
        if folder.stat().st_uid == 0 and folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_file_without_permission_is_an_unreadable_item_and_stays_listed(docs: Path, plain_user: None) -> None:
    uid = os.geteuid()
    if uid == 65534:
        os.seteuid(0)
    write(docs / "a.txt", "x").chmod(0)
    if uid == 65534:
        os.chown(docs / "a.txt", 65534, 65534)
        os.seteuid(uid)
    with pytest.raises(ItemUnreadable, match="Permission denied"):
        fetch(docs, "a.txt")


def test_a_folder_without_permission_makes_the_listing_fail(docs: Path, plain_user: None) -> None:
    uid = os.geteuid()
    if uid == 65534:
        os.seteuid(0)
    write(docs / "sub" / "a.txt", "x")
    (docs / "sub").chmod(0)
    if uid == 65534:
        os.seteuid(uid)
    try:
        with pytest.raises(SourceUnreachable, match="sub"):
            listed(docs)
    finally:
        if uid == 65534:
            os.seteuid(0)
        (docs / "sub").chmod(0o755)
        if uid == 65534:
            os.seteuid(uid)


def test_a_missing_root_is_unreachable_and_says_which(docs: Path) -> None:
    docs.rmdir()
    with pytest.raises(SourceUnreachable, match="docs") as caught:
        listed(docs)
    assert caught.value.retryable
    with pytest.raises(SourceUnreachable, match="cannot be watched"):
        connector(docs).watch(lambda: None, lambda: False)


def test_a_root_that_is_no_folder_is_unreachable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceUnreachable):
        list(connector(tmp_path / "pipe").list())


def test_an_unreachable_place_with_a_strange_name_can_be_told(tmp_path: Path) -> None:
    missing = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    with pytest.raises(SourceUnreachable) as caught:
        list(connector(missing).list())
    caught.value.message.encode()
    with pytest.raises(SourceUnreachable) as caught:
        connector(missing).watch(lambda: None, lambda: False)
    caught.value.message.encode()


def test_a_folder_that_goes_away_during_the_scan_is_just_not_listed(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.txt", "b/2.txt", "c/3.txt"):
        write(docs / name, "x")
    names = []
    for item in connector(docs).list():
        names.append(item.name)
        if (docs / "b").exists():
            shutil.rmtree(docs / "b")
    assert names == ["1.txt", "3.txt"]


def test_a_rename_over_a_file_changes_its_fingerprint(docs: Path) -> None:
    write(docs / "a.txt", "same words", age_s=100)
    (before,) = connector(docs).list()
    write(docs / "b.txt", "same words", age_s=100)
    (docs / "b.txt").rename(docs / "a.txt")
    (after,) = connector(docs).list()
    assert (after.uri, after.size) == (before.uri, before.size)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("below", "told"),
    [("a.txt", True), ("node_modules/a.md", True), (".git/index", False), ("sub/~$x.docx", False), ("x.part", False)],
)
def test_only_events_about_what_is_listed_are_told(tmp_path: Path, below: str, told: bool) -> None:
    root = tmp_path / ".hidden" / "node_modules"  # what lies above the folder does not matter
    assert FilesConnector(file_uri(root))._concerns(watchfiles.Change.added, str(root / below)) is told
