"""Credentials to a caller: the loopback's owner, keys with scopes and collections, expiry and revocation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from indexes.model import Allowed
from ingest.catalog.catalog import Catalog
from ingest.catalog.keys import SCOPES
from ingest.errors import NotFound
from ragsvc.auth import OWNER, Caller, authenticate
from ragsvc.errors import Forbidden, Unauthorized

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    yield opened
    opened.close()


def make(catalog: Catalog, *scopes: str, **more: object) -> tuple[str, str]:
    key, secret = catalog.keys.create(
        name="test", scopes=scopes or ("retrieve",), principals=("user:ann",), now=NOW, **more
    )  # type: ignore[arg-type]
    return key.id, secret


def who(catalog: Catalog, header: str | None, *, loopback: bool = True, now: datetime = NOW) -> Caller:
    return authenticate(header, catalog.keys, loopback=loopback, now=now)


def test_without_keys_the_loopback_belongs_to_the_owner(catalog: Catalog) -> None:
    assert who(catalog, None) is OWNER
    assert OWNER.allowed == Allowed.everything()
    assert OWNER.scopes == set(SCOPES)


def test_another_address_needs_a_key_even_without_keys(catalog: Catalog) -> None:
    with pytest.raises(Unauthorized):
        who(catalog, None, loopback=False)


def test_once_there_is_a_key_every_call_needs_one(catalog: Catalog) -> None:
    _, secret = make(catalog)
    with pytest.raises(Unauthorized):
        who(catalog, None)
    assert who(catalog, f"Bearer {secret}").allowed == Allowed.of("user:ann")


def test_the_last_key_revoked_opens_nothing(catalog: Catalog) -> None:
    key_id, _ = make(catalog)
    catalog.keys.revoke(key_id, now=NOW)
    with pytest.raises(Unauthorized):
        who(catalog, None)


def test_a_caller_has_what_its_key_has(catalog: Catalog) -> None:
    key_id, secret = make(catalog, "ingest", collections=["a"])
    caller = who(catalog, f"bearer {secret}", loopback=False)
    assert caller.actor == key_id
    assert caller.scopes == {"ingest"}
    assert caller.collections == {"a"}
    assert caller.allowed.principals == {"user:ann", "public"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic rk_abc", "rk_abc", "Bearer abc", "Bearer rk_" + "a" * 200]
)
def test_anything_else_is_not_a_key(catalog: Catalog, header: str) -> None:
    with pytest.raises(Unauthorized, match="not `Bearer"):
        who(catalog, header)


def test_a_wrong_secret_tells_no_more_than_an_expired_or_revoked_one(catalog: Catalog) -> None:
    key_id, secret = make(catalog)
    _, expiring = make(catalog, expires_at=NOW + timedelta(hours=1))
    catalog.keys.revoke(key_id, now=NOW)
    later = NOW + timedelta(hours=1)
    assert who(catalog, f"Bearer {expiring}", now=later - timedelta(seconds=1))
    said = set()
    for wrong in ("rk_" + "A" * 43, secret, expiring):
        with pytest.raises(Unauthorized) as error:
            who(catalog, f"Bearer {wrong}", now=later)
        said.add((error.value.message, error.value.hint))
    assert len(said) == 1


def test_revocation_counts_at_the_next_call(catalog: Catalog) -> None:
    key_id, secret = make(catalog)
    assert who(catalog, f"Bearer {secret}")
    catalog.keys.revoke(key_id, now=NOW)
    with pytest.raises(Unauthorized):
        who(catalog, f"Bearer {secret}")


def test_a_secret_is_kept_as_its_hash_only(catalog: Catalog, tmp_path: Path) -> None:
    _, secret = make(catalog)
    assert len(secret) >= 3 + 43  # 256 bits
    catalog.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert secret[3:].encode() not in kept


@pytest.mark.parametrize("scope", SCOPES)
def test_scopes(scope: str) -> None:
    caller = Caller("key", Allowed.of(), frozenset({scope}), None)
    for needed in SCOPES:
        if needed == scope or scope == "admin":
            caller.need(needed)
        else:
            with pytest.raises(Forbidden, match=needed):
                caller.need(needed)


def test_a_collection_of_others_is_like_one_that_is_not_there(catalog: Catalog) -> None:
    caller = Caller("key", Allowed.of(), frozenset(), frozenset({"mine"}))
    caller.check("mine")
    with pytest.raises(NotFound) as forbidden:
        caller.check("theirs")
    with pytest.raises(NotFound) as absent:
        catalog.collections.get("theirs")
    assert (forbidden.value.message, forbidden.value.hint) == (absent.value.message, absent.value.hint)
    assert not caller.sees("theirs")
    assert OWNER.sees("theirs")
