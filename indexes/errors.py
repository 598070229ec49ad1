"""One tree of engine errors. Each says what happened, to which thing, and what to do next.

RagsvcError                    base of every error of the project: message, hint, retryable
|-- EngineError
|   |-- SegmentDamaged         a file of a segment does not match its manifest
|   |-- SnapshotDamaged        no snapshot file of a generation can be read
|   |-- GenerationUnknown      a generation that this engine does not hold
|   |-- WriterBusy             another process writes to this data folder
|   |-- StorageFailed          the disk refused a write
|   |   |-- DiskFull           there is no space left
|   |   `-- StorageHalted      a sync failed, so this process writes nothing more
|   `-- DimensionMismatch      a vector of the wrong width
|-- QueryInvalid               a query or filter that cannot mean anything
`-- EmbedderError
    |-- ModelMissing           the embedding model is not installed
    `-- ModelDamaged           the weights do not have the pinned hash
"""

from __future__ import annotations


class RagsvcError(Exception):
    """Something went wrong in ragsvc."""

    hint: str = "Run `ragsvc doctor`."
    retryable: bool = False

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        if hint is not None:
            self.hint = hint

    @property
    def message(self) -> str:
        """What happened, in one sentence."""
        return str(self.args[0])


def revive(name: str, message: str, hint: str) -> RagsvcError:
    """The error of a class name that was stored with its words, such as a job's; RagsvcError if the class is gone."""
    waiting: list[type[RagsvcError]] = [RagsvcError]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            error = kind.__new__(kind)
            RagsvcError.__init__(error, message, hint=hint or None)
            return error
        waiting += kind.__subclasses__()
    return RagsvcError(message, hint=hint or None)


class EngineError(RagsvcError):
    """The index engine could not do what was asked."""


class SegmentDamaged(EngineError):
    """A segment's file does not match its manifest."""

    hint = "It is not served. Run `ragsvc verify --repair`: it is rebuilt from the catalogue."


class SnapshotDamaged(EngineError):
    """No snapshot of this generation can be read."""

    hint = "Run `ragsvc verify --repair`: the indexes are rebuilt from the catalogue."


class GenerationUnknown(EngineError):
    """This generation is not in the engine."""

    hint = "List the generations with GET /v1/generations."


class WriterBusy(EngineError):
    """Another process already writes to this data folder."""

    hint = "Stop the other `ragsvc up` or `ragsvc work`, or give this one another RAGSVC_DATA."


class StorageFailed(EngineError):
    """The disk refused a write."""

    hint = "Free some space or mend the disk; writing resumes by itself."
    retryable = True


class DiskFull(StorageFailed):
    """The disk is full."""

    hint = "Free some space where RAGSVC_DATA lies; writing goes on by itself, and jobs are tried again."


class StorageHalted(StorageFailed):
    """The disk failed to sync, so this process writes nothing more."""

    hint = "Look at the disk, then restart the service; what was acknowledged is safe, and reading goes on."
    retryable = False


class DimensionMismatch(EngineError):
    """A vector has the wrong number of dimensions for this generation."""

    hint = "The generation was built with another model: use that model, or make a new collection."


class QueryInvalid(RagsvcError):
    """The query cannot be answered as it is written."""

    hint = "See the fields of POST /v1/retrieve in the OpenAPI document."


class EmbedderError(RagsvcError):
    """Text could not be embedded."""


class ModelMissing(EmbedderError):
    """The embedding model is not installed."""

    hint = "Run `ragsvc model install`."


class ModelDamaged(EmbedderError):
    """The model's weights do not have the pinned SHA-256."""

    hint = "Run `ragsvc model install --force`."
