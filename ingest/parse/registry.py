"""Which type a document has, and which parser reads it."""

from __future__ import annotations

import importlib
import mimetypes
import re
import zipfile
from io import BytesIO
from typing import Final

from ingest.errors import DocumentWithoutText, TypeNotSupported
from ingest.model import Parsed
from ingest.protocols import Parser

OOXML: Final = "application/vnd.openxmlformats-officedocument."
DOCX, PPTX, XLSX = (
    OOXML + "wordprocessingml.document",
    OOXML + "presentationml.presentation",
    OOXML + "spreadsheetml.sheet",
)
UNKNOWN: Final = "application/octet-stream"

# Ours, not the machine's mime.types: the same file must have the same type everywhere.
TYPES: Final = {
    **dict.fromkeys(("txt", "text", "log", "rst", "org", "tex", "adoc", "asciidoc", "srt", "vtt"), "text/plain"),
    **dict.fromkeys(("py", "go", "rs", "java", "c", "h", "cpp", "ts", "sh", "sql", "ini", "cfg", "conf"), "text/plain"),
    **dict.fromkeys(("md", "markdown", "mdx", "mkd"), "text/markdown"),
    **dict.fromkeys(("html", "htm"), "text/html"),
    **dict.fromkeys(("xhtml", "xht"), "application/xhtml+xml"),
    **dict.fromkeys(("yaml", "yml"), "application/yaml"),
    **dict.fromkeys(("jsonl", "ndjson"), "application/x-ndjson"),
    **dict.fromkeys(("docx", "docm", "dotx"), DOCX),
    **dict.fromkeys(("pptx", "pptm", "ppsx"), PPTX),
    **dict.fromkeys(("xlsx", "xlsm"), XLSX),
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "tab": "text/tab-separated-values",
    "json": "application/json",
    "toml": "application/toml",
    "xml": "application/xml",
    "xsl": "application/xml",
    "eml": "message/rfc822",
    "epub": "application/epub+zip",
    "pdf": "application/pdf",
    "doc": "application/msword",
    "ppt": "application/vnd.ms-powerpoint",
    "xls": "application/vnd.ms-excel",
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "rtf": "application/rtf",
    "msg": "application/vnd.ms-outlook",
}
SAME: Final = {
    "text/x-markdown": "text/markdown",
    "text/xml": "application/xml",
    "text/rtf": "application/rtf",
    "text/json": "application/json",
    "application/csv": "text/csv",
    "application/x-yaml": "application/yaml",
    "text/yaml": "application/yaml",
    "application/x-pdf": "application/pdf",
}
MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"RIFF", "audio/x-wav"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf", "application/x-7z-compressed"),
    (b"\x7fELF", "application/x-executable"),
    (b"{\\rtf", "application/rtf"),
)
OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
OLE_STREAMS: Final = (
    ("WordDocument", "application/msword"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("Workbook", "application/vnd.ms-excel"),
    ("Book", "application/vnd.ms-excel"),
    ("__properties_version1.0", "application/vnd.ms-outlook"),
)
HTML_START = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html[\s>])", re.I | re.S)

# Where each parser lives; a parser's own `media_types` say what it reads.
PARSERS: Final = (
    ("ingest.parse.plain", "PlainParser"),
    ("ingest.parse.plain", "DelimitedParser"),
    ("ingest.parse.markdown", "MarkdownParser"),
    ("ingest.parse.markup", "HtmlParser"),
    ("ingest.parse.markup", "XmlParser"),
    ("ingest.parse.mail", "MailParser"),
    ("ingest.parse.epub", "EpubParser"),
    ("ingest.parse.pdf", "PdfParser"),
    ("ingest.parse.slides", "SlidesParser"),
    ("ingest.parse.office", "OfficeParser"),
)
RICH: Final = (("ingest.parse.rich", "UnstructuredParser"), *PARSERS)  # what it does not read, the default does
_loaded: dict[str, tuple[Parser, ...]] = {}


def parse(data: bytes, *, media_type: str | None, name: str, parser: str = "default") -> Parsed:
    """Settle the type, choose the parser, parse. Raises ParseError. Call it inside the jail."""
    if not data.strip(b"\x00 \t\r\n\xef\xbb\xbf"):
        raise DocumentWithoutText(f"{name} is empty.", hint="Save some text in it, or delete it.")
    declared = base_type(media_type or "")
    settled = media_type_of(name, data, declared=declared)
    chosen = parser_for(settled, parser=parser)
    parameters = (media_type or "").partition(";")[2] if settled == declared else ""
    return chosen.parse(data, media_type=f"{settled};{parameters}".rstrip("; "), name=name)


def base_type(media_type: str) -> str:
    """The media type without parameters, in lower case and in one spelling."""
    base = media_type.partition(";")[0].strip().lower()
    return SAME.get(base, base)


def media_type_of(name: str, data: bytes, *, declared: str = "") -> str:
    """The type of a document: what was declared, else by the name's ending; magic bytes settle contradictions.

    A server's "text/plain" or "application/octet-stream" says little: a known ending is believed before it.
    """
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    by_name = TYPES.get(ending) or mimetypes.MimeTypes().guess_type(f"x.{ending}")[0] or ""
    vague = declared in ("", UNKNOWN, "text/plain", "binary/octet-stream", "application/zip")
    claimed = (by_name or declared) if vague else declared
    seen = _by_magic(data, claimed)
    if seen:
        return seen
    return claimed if claimed not in ("", UNKNOWN) else _text_or_unknown(data)


def parser_for(media_type: str, *, parser: str = "default") -> Parser:
    """The parser that reads this type; `parser` "unstructured" prefers that package. Raises TypeNotSupported."""
    base = base_type(media_type)
    for candidate in preload(parser):
        if base in candidate.media_types:
            return candidate
    if base.startswith("text/"):
        return parser_for("text/plain", parser=parser)
    raise TypeNotSupported(f"There is no parser for documents of the type {base or 'unknown'}.")


def preload(parser: str) -> tuple[Parser, ...]:
    """Import the parsers of this choice: the zygote does so once, before it forks. Raises TypeNotSupported."""
    if parser not in ("default", "unstructured"):
        raise TypeNotSupported(f"There is no parser named {parser!r}.", hint="Choose `default` or `unstructured`.")
    if parser not in _loaded:
        places = RICH if parser == "unstructured" else PARSERS
        _loaded[parser] = tuple(getattr(importlib.import_module(module), name)() for module, name in places)
    return _loaded[parser]


def _by_magic(data: bytes, claimed: str) -> str:
    """What the first bytes say, where that beats the claim; else nothing."""
    head = data[:1024]
    if b"%PDF-" in head and not claimed.startswith("message/"):
        return "application/pdf"
    if head.startswith(b"PK\x03\x04"):
        return _zip_type(data, claimed)
    if head.startswith(OLE):
        return _ole_type(data, claimed)
    binary = not (claimed.startswith("text/") or claimed in ("", UNKNOWN, "application/json"))
    if HTML_START.match(data[:4096].removeprefix(b"\xef\xbb\xbf")):
        textual = claimed.startswith("text/") or claimed in ("application/xhtml+xml", "message/rfc822")
        return "" if textual else "text/html"
    if claimed in ("", UNKNOWN) or (binary and claimed not in ("application/rtf",)):
        return next((kind for magic, kind in MAGIC if head.startswith(magic)), "")
    return ""


def _zip_type(data: bytes, claimed: str) -> str:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = set(archive.namelist())
            if "mimetype" in names:
                with archive.open("mimetype") as declared:
                    return declared.read(100).decode("ascii", "replace").strip()
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError):
        return claimed or "application/zip"  # a damaged one: its parser says so
    for part, kind in (("word/", DOCX), ("ppt/", PPTX), ("xl/", XLSX)):
        if any(name.startswith(part) for name in names):
            return kind
    return claimed if claimed in (DOCX, PPTX, XLSX, TYPES["epub"], TYPES["odt"]) else "application/zip"


def _ole_type(data: bytes, claimed: str) -> str:
    if claimed in (DOCX, PPTX, XLSX) and "EncryptedPackage".encode("utf-16-le") in data:
        return claimed  # its parser says that a password is needed
    kinds = (kind for stream, kind in OLE_STREAMS if stream.encode("utf-16-le") in data)
    return next(kinds, "application/x-ole-storage")


def _text_or_unknown(data: bytes) -> str:
    head = data[:4096]
    if b"\x00" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return UNKNOWN
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return "text/plain" if control * 50 <= len(head) else UNKNOWN
