"""Errors of ingestion. `retryable` says whether trying the same thing again can help.

RagsvcError
`-- IngestError
    |-- ParseError                 this document cannot become text (a dead letter)
    |   |-- DocumentEncrypted      a password is needed
    |   |-- DocumentDamaged        the file is broken
    |   |-- DocumentWithoutText    scanned or empty: there is nothing to read
    |   |-- DocumentTooLarge       over a limit
    |   |-- TypeNotSupported       no parser for this type
    |   `-- ParserKilled           the parser broke its time, memory or output limit, or crashed
    |-- SourceUnreachable          the source could not be listed (retryable)
    |-- ItemUnreadable             one item could not be fetched (retryable)
    |-- ItemNotSettled             the item is still being written (retryable)
    |-- NotFound                   no such source, document, version, job ... (or not for this caller)
    |-- Conflict                   the request contradicts what is there
    |-- CatalogUnsafe              the SQLite library can lose committed writes
    |-- BackupDamaged              this folder is not a backup any more
    |-- GenerationSwitched         the index generation was replaced while a job wrote for it (retryable)
    |-- ReindexRefused             the new generation answers worse than the one that serves
    `-- LeaseLost                  another worker has this job now

EmbedderError
`-- ModelChanged                   the model is not the one that a generation was built with
"""

from __future__ import annotations

from indexes.errors import EmbedderError, RagsvcError


class IngestError(RagsvcError):
    """Ingestion could not go on."""


class ParseError(IngestError):
    """This document could not be turned into text."""

    hint = "Mend the file and save it again, or retry the dead letter."


class DocumentEncrypted(ParseError):
    """The document is protected by a password."""

    hint = "Save a copy without a password in the watched place."


class DocumentDamaged(ParseError):
    """The document is damaged and cannot be read."""

    hint = "Open it in the program that made it and save it again."


class DocumentWithoutText(ParseError):
    """The document holds no text: it is empty, or scanned without a text layer."""

    hint = "Run text recognition (OCR) on it and save the result in the watched place."


class DocumentTooLarge(ParseError):
    """The document is larger than the limit."""

    hint = "Split it, or raise RAGSVC_MAX_DOCUMENT_BYTES."


class TypeNotSupported(ParseError):
    """There is no parser for this type of document."""

    hint = "Convert it to one of: text, Markdown, HTML, PDF, docx, pptx, xlsx, csv, eml, epub."


class ParserKilled(ParseError):
    """The parser was stopped: it crashed or went over its time, memory or output limit."""

    hint = "The file may be hostile or damaged. If it is sound, raise RAGSVC_PARSE_TIMEOUT_S or RAGSVC_PARSE_MEMORY_MB."


class SourceUnreachable(IngestError):
    """The source could not be listed."""

    hint = "Its last good content is served meanwhile, marked unverified. Check that the place exists and is readable."
    retryable = True


class ItemUnreadable(IngestError):
    """An item of the source could not be read."""

    hint = "Check its permissions; it is tried again at the next sync."
    retryable = True


class ItemNotSettled(IngestError):
    """The item is still being written."""

    hint = "It is tried again as soon as it stops changing."
    retryable = True


class NotFound(IngestError):
    """There is no such thing here."""

    hint = "Check the id; list what exists with the matching GET route."


class Conflict(IngestError):
    """The request contradicts what is already there."""

    hint = "Change the request, or first change what is there: the detail names it."


class CatalogUnsafe(IngestError):
    """This SQLite library can lose committed writes (3.7.0 to 3.51.2 in WAL mode)."""

    hint = "Install the package pysqlite3 (its wheel carries a fixed SQLite), then start again."


class BackupDamaged(IngestError):
    """This is not a backup, or not the one that was written."""

    hint = "Use another copy of it, or an older backup."


class LeaseLost(IngestError):
    """Another worker has taken this job over."""

    hint = "Nothing: the other worker goes on with it."


class GenerationSwitched(IngestError):
    """The index generation was replaced by another one while this job wrote for it."""

    hint = "It is tried again at once, for the generation that serves now."
    retryable = True


class ReindexRefused(IngestError):
    """The new generation answers the evaluation set worse than the one that serves."""

    hint = (
        "See its report with `ragsvc generations list`; take it anyway with `ragsvc generations activate` or --force."
    )


class ModelChanged(EmbedderError):
    """The model is not the one that this generation was built with."""

    hint = "Install the former model again, or build a new generation with `ragsvc reindex`."
