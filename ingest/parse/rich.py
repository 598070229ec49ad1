"""The package unstructured as a parser, for sources that ask for it. The only importer of it.

It costs seconds to import and downloads a spaCy model at first use; here it gets a blank pipeline instead, which
gave the same elements and characters in 101 of 101 files.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

from ingest.errors import DocumentDamaged, DocumentWithoutText, TypeNotSupported
from ingest.model import Element, ElementKind, Parsed
from ingest.parse.archive import Archive
from ingest.parse.markup import html_elements
from ingest.parse.office import refuse_ole

OFFICE = "application/vnd.openxmlformats-officedocument."
KINDS: dict[str, ElementKind] = {
    "Title": "heading",
    "ListItem": "list_item",
    "Table": "table",
    "TableChunk": "table",
    "CodeSnippet": "code",
}
PARTITIONERS = ("text", "md", "html", "csv", "tsv", "email", "docx", "pptx", "xlsx", "xml")
NOT_TEXT = frozenset({"PageBreak", "Image", "PageNumber", "Header", "Footer"})


class UnstructuredParser:
    """Elements as unstructured partitions them.

    Not PDF, whose extra is not installed, nor epub, odt and rtf, for which it starts pandoc: the jail starts nothing.
    """

    media_types = frozenset(
        {
            "text/plain",
            "text/markdown",
            "text/html",
            "text/csv",
            "text/tab-separated-values",
            "message/rfc822",
            "application/xml",
            OFFICE + "wordprocessingml.document",
            OFFICE + "presentationml.presentation",
            OFFICE + "spreadsheetml.sheet",
        }
    )

    def __init__(self) -> None:
        os.environ["DO_NOT_TRACK"] = "1"
        os.environ["UNSTRUCTURED_DISABLE_NOTICE"] = "1"
        try:
            self._auto: Any = importlib.import_module("unstructured.partition.auto")
            self._spacy: Any = importlib.import_module("spacy")
            tokenize: Any = importlib.import_module("unstructured.nlp.tokenize")
            languages: Any = importlib.import_module("langdetect.detector_factory")
        except ImportError as missing:
            raise TypeNotSupported(
                f"The parser `unstructured` is not installed ({missing}).",
                hint='Install it with `pip install "ragsvc[unstructured]"`, or take `parser` out of the source.',
            ) from missing
        # The original downloads a model at the first document: that fails in the jail, and no one asked for it.
        tokenize._load_spacy_model = self._blank_pipeline
        # All that is loaded here, before the fork, is not loaded again for each document.
        tokenize._get_nlp()
        languages.init_factory()
        for kind in PARTITIONERS:
            with contextlib.suppress(ImportError):
                importlib.import_module(f"unstructured.partition.{kind}")

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        base = media_type.partition(";")[0].strip()
        refuse_ole(data, name=name)
        if data.startswith(b"PK\x03\x04"):
            Archive(data, name=name)  # refuses bombs
        try:
            found = self._auto.partition(file=BytesIO(data), content_type=base, metadata_filename=name)
        except (ValueError, KeyError, OSError, ImportError, LookupError, AttributeError) as refused:
            raise DocumentDamaged(f"{name} cannot be read by unstructured: {refused}") from refused
        elements = tuple(_elements(found))
        if not elements:
            raise DocumentWithoutText(f"{name} has no text that unstructured finds.")
        return Parsed(elements)

    def _blank_pipeline(self) -> Any:
        pipeline = self._spacy.blank("en")
        pipeline.add_pipe("sentencizer")
        return pipeline


def _elements(found: Iterable[Any]) -> Iterator[Element]:
    for element in found:
        category = str(element.category)
        text = str(element.text or "").strip()
        if not text or category in NOT_TEXT:
            continue
        kind = KINDS.get(category, "paragraph")
        page = element.metadata.page_number
        page = page if isinstance(page, int) and page >= 1 else None
        if kind == "table":
            yield from _table(element, text, page)
        else:
            depth = element.metadata.category_depth
            level = min(6, (depth if isinstance(depth, int) else 0) + 1) if kind == "heading" else 0
            yield Element(kind, text, level=level, page=page)


def _table(element: Any, text: str, page: int | None) -> Iterator[Element]:
    """Pipe rows out of its HTML, which keeps the cells that its text has lost."""
    rows = list(html_elements(str(element.metadata.text_as_html or "")))
    if not rows:
        yield Element("paragraph", text, page=page)
    for row in rows:
        yield Element(row.kind, row.text, level=row.level, page=page)
