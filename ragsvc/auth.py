"""Credentials to a caller: what it may do (scopes), where (collections), and what it may read (allowed set)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from indexes.model import Allowed
from ingest.catalog.keys import SCOPES, Keys
from ingest.errors import NotFound
from ragsvc.errors import Forbidden, Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `collections` None means all of them."""

    actor: str
    allowed: Allowed
    scopes: frozenset[str]
    collections: frozenset[str] | None

    def need(self, scope: str) -> None:
        """Raises Forbidden without this scope; `admin` has every scope."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Forbidden(f"This key has no scope {scope!r}.")

    def sees(self, collection: str) -> bool:
        """Whether this collection exists for the caller."""
        return self.collections is None or collection in self.collections

    def check(self, collection: str) -> None:
        """Raises the same NotFound that a collection gives that does not exist."""
        if not self.sees(collection):
            raise NotFound(f"There is no collection {collection!r}.", hint="List them with GET /v1/collections.")


OWNER = Caller("local", Allowed.everything(), frozenset(SCOPES), None)
"""Whoever is on this machine, as long as no key was ever made."""


def authenticate(header: str | None, keys: Keys, *, loopback: bool, now: datetime) -> Caller:
    """The caller of an Authorization header. Without any keys, the loopback belongs to the owner.

    Raises Unauthorized.
    """
    if header is None:
        if loopback and not keys.any():
            return OWNER
        raise Unauthorized
    kind, _, secret = header.partition(" ")
    if kind.lower() != "bearer" or not secret.startswith("rk_") or len(secret) > 128:
        raise Unauthorized("The Authorization header is not `Bearer rk_...`.")
    key = keys.authenticate(secret, now=now)
    if key is None:
        raise Unauthorized("This API key is unknown, expired or revoked.")
    return Caller(key.id, Allowed.of(*key.principals), key.scopes, key.collections)
