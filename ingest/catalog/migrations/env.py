"""Alembic's entry: run the migrations on the connection that Database.migrate hands over."""

from __future__ import annotations

from alembic import context

from ingest.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=False
)
context.run_migrations()
