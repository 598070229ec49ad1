"""Errors of the service's edge, and how every error becomes an RFC 9457 problem document."""

from __future__ import annotations

from indexes.errors import (
    DiskFull,
    EmbedderError,
    EngineError,
    QueryInvalid,
    RagsvcError,
    StorageFailed,
    WriterBusy,
)
from ingest.errors import Conflict, DocumentTooLarge, NotFound, ParseError


class ServiceError(RagsvcError):
    """The service could not answer."""


class Unauthorized(ServiceError):
    """This call needs a valid API key."""

    hint = "Send `Authorization: Bearer rk_...`; make a key with `ragsvc keys create`."


class Forbidden(ServiceError):
    """The API key does not have the scope that this call needs."""

    hint = "Use a key with that scope: `ragsvc keys create --scope ...`."


class Invalid(ServiceError):
    """The request cannot be understood."""

    hint = "See the OpenAPI document at /openapi.json."


class BodyTooLarge(ServiceError):
    """The request body is too large."""

    hint = "Send less at once, or raise RAGSVC_MAX_BODY_BYTES."


class Overloaded(ServiceError):
    """The service has more requests than it can work on."""

    hint = "Wait for the time in Retry-After, then send the request again."
    retryable = True


class Stale(ServiceError):
    """The answer would rest on passages older than the request allows."""

    hint = "Sync the source, or ask again with a larger max_staleness or with on_stale flag or drop."


class NoRoute(ServiceError):
    """There is no such route, or not with this method."""

    hint = "The routes are in /openapi.json."

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unsafe(ServiceError):
    """The service refuses to start like this."""

    hint = "Choose another address with --host and --port, or make a key with `ragsvc keys create`."


class ReaderFailed(ServiceError):
    """A reading process could not begin."""

    hint = "See the service's log; `ragsvc doctor` looks at the installation."


_STATUS: tuple[tuple[type[RagsvcError], int], ...] = (
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (WriterBusy, 409),
    (Stale, 409),
    (BodyTooLarge, 413),
    (DocumentTooLarge, 413),
    (Invalid, 422),
    (QueryInvalid, 422),
    (ParseError, 422),
    (Overloaded, 503),
    (DiskFull, 507),
    (StorageFailed, 503),
    (EmbedderError, 503),
    (EngineError, 503),
)


def status_of(error: RagsvcError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, NoRoute):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_of(error: RagsvcError) -> dict[str, object]:
    """The problem document of an error. `type` names its section in docs/errors.md."""
    name = type(error).__name__
    return {
        "type": f"urn:ragsvc:error:{name}",
        "title": (type(error).__doc__ or name).strip().splitlines()[0],
        "status": status_of(error),
        "detail": error.message,
        "hint": error.hint,
    }
