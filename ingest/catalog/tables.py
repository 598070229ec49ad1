"""Every table of the catalogue. Times are integers: microseconds since 1970 in UTC.

A version has two timelines. Document time: `valid_from`, `valid_to`: when its content was in force,
which `as_of` asks. Service time: `recorded_from`, `recorded_to` and the sequence numbers of the change
log, `recorded_seq` and `closed_seq`, which a `snapshot` replays. An open end is FOREVER, never NULL,
so that one comparison serves both. `valid_to` and `closed_seq` are the newest of the version's `closings`;
a replay asks for the newest up to its own sequence number.
"""

from __future__ import annotations

import sqlalchemy as sa

from indexes.model import FOREVER

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_Key = sa.String(64)
_Time = sa.BigInteger
_Blob = sa.LargeBinary

collections = sa.Table(
    "collections",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("access", sa.JSON, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("generation_id", _Key, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("collection_id", _Key, sa.ForeignKey("collections.id"), nullable=False, index=True),
    sa.Column("embedder", sa.String(256), nullable=False),
    sa.Column("dimensions", sa.Integer, nullable=False),
    sa.Column("chunker", sa.String(64), nullable=False),
    sa.Column("analyzer", sa.String(64), nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, server_default="serving"),
    # Up to which entry of the change log every version has its chunks here; FOREVER while it serves.
    sa.Column("complete_seq", sa.BigInteger, nullable=False, server_default=str(FOREVER)),
    sa.Column("model", sa.String(256)),  # the embedder's id with the hash of its weights, once known
    sa.Column("report", sa.JSON(none_as_null=True)),
    sa.Column("activated_at", _Time),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("collection_id", _Key, sa.ForeignKey("collections.id"), primary_key=True),
    sa.Column("queries", sa.JSON, nullable=False),
    sa.Column("set_at", _Time, nullable=False),
)

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("collection_id", _Key, sa.ForeignKey("collections.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("watch", sa.Boolean, nullable=False),
    sa.Column("schedule", sa.JSON(none_as_null=True)),
    sa.Column("freshness_sla_s", sa.Integer),
    sa.Column("access", sa.JSON(none_as_null=True)),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False, default=False),
    sa.Column("status", sa.String(16), nullable=False, default="new"),
    sa.Column("error", sa.Text),
    sa.Column("last_run_at", _Time),
    sa.Column("last_success_at", _Time),
    sa.Column("last_verified_at", _Time),
    sa.Column("withheld_deletions", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("collection_id", "kind", "uri"),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("collection_id", _Key, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("source_id", _Key, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("content_sha256", sa.String(64), nullable=False),
    sa.Column("access", sa.JSON, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("current_version_id", _Key),
    sa.Column("deleted_at", _Time),
    sa.Column("last_verified_at", _Time, nullable=False),
    sa.Column("suspect", sa.String(16)),
    sa.Index("ix_documents_collection_id_id", "collection_id", "id"),
    sa.Index("ix_documents_source_id_uri", "source_id", "uri"),
    sa.Index(
        "uq_documents_live_uri",
        "source_id",
        "uri",
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    ),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("document_id", _Key, sa.ForeignKey("documents.id"), nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("lang", sa.String(16)),
    sa.Column("characters", sa.Integer, nullable=False),
    sa.Column("valid_from", _Time, nullable=False),
    sa.Column("valid_to", _Time, nullable=False),
    sa.Column("recorded_from", _Time, nullable=False),
    sa.Column("recorded_to", _Time, nullable=False),
    sa.Column("recorded_seq", sa.BigInteger, nullable=False),
    sa.Column("closed_seq", sa.BigInteger, nullable=False),
    sa.Column("source_modified_at", _Time),
    sa.UniqueConstraint("document_id", "ordinal"),
)

closings = sa.Table(
    "closings",
    metadata,
    sa.Column("version_id", _Key, sa.ForeignKey("versions.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("valid_to", _Time, nullable=False),
)

texts = sa.Table(
    "texts",
    metadata,
    sa.Column("version_id", _Key, sa.ForeignKey("versions.id"), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("blocks", sa.JSON, nullable=False),
    sa.Column("sentences", _Blob, nullable=False),
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("generation_id", _Key, primary_key=True),
    sa.Column("version_id", _Key, sa.ForeignKey("versions.id"), primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True),
    sa.Column("id", _Key, nullable=False, index=True),
    sa.Column("char_start", sa.Integer, nullable=False),
    sa.Column("char_end", sa.Integer, nullable=False),
    sa.Column("heading_path", sa.JSON, nullable=False),
    sa.Column("page_start", sa.Integer),
    sa.Column("page_end", sa.Integer),
    sa.Column("vector", _Blob, nullable=False),
)

vectors = sa.Table(
    "vectors",
    metadata,
    sa.Column("key", sa.LargeBinary(16), primary_key=True),
    sa.Column("vector", _Blob, nullable=False),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("collection_id", _Key, nullable=False),
    sa.Column("document_id", _Key, nullable=False),
    sa.Column("version_id", _Key),
    sa.Column("at", _Time, nullable=False),
    sa.Index("ix_changes_collection_id_seq", "collection_id", "seq"),
    sqlite_autoincrement=True,
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("source_id", _Key),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("slot", sa.String(64)),
    sa.Column("idempotency_key", sa.String(200), unique=True),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", _Time, nullable=False),
    sa.Column("lease_owner", sa.String(64)),
    sa.Column("lease_until", _Time),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("started_at", _Time),
    sa.Column("finished_at", _Time),
    sa.UniqueConstraint("source_id", "slot"),
    sa.Index("ix_jobs_state_priority_not_before", "state", "priority", "not_before"),
)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("source_id", _Key, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("error_type", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("retry_at", _Time, nullable=False),
    sa.Column("first_at", _Time, nullable=False),
    sa.Column("last_at", _Time, nullable=False),
    sa.UniqueConstraint("source_id", "uri"),
)

pushes = sa.Table(
    "pushes",
    metadata,
    sa.Column("source_id", _Key, primary_key=True),
    sa.Column("uri", sa.Text, primary_key=True),
    sa.Column("blob_sha256", sa.String(64), nullable=False),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("title", sa.Text),
    sa.Column("valid_from", _Time),
    sa.Column("access", sa.JSON(none_as_null=True)),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("pushed_at", _Time, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("principals", sa.JSON, nullable=False),
    sa.Column("collections", sa.JSON(none_as_null=True)),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("expires_at", _Time),
    sa.Column("revoked_at", _Time),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", _Time, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

erased = sa.Table(
    "erased",
    metadata,
    sa.Column("version_id", _Key, primary_key=True),
    sa.Column("document_id", _Key, nullable=False),
    sa.Column("deleted_at", _Time, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
