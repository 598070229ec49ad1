"""Generations that are built beside the serving one, and evaluation sets of collections."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FOREVER = str(2**63 - 1)


def upgrade() -> None:
    """What is there serves, and is complete."""
    op.add_column("generations", sa.Column("state", sa.String(length=16), nullable=False, server_default="serving"))
    op.add_column("generations", sa.Column("complete_seq", sa.BigInteger(), nullable=False, server_default=_FOREVER))
    op.add_column("generations", sa.Column("model", sa.String(length=256), nullable=True))
    op.add_column("generations", sa.Column("report", sa.JSON(), nullable=True))
    op.add_column("generations", sa.Column("activated_at", sa.BigInteger(), nullable=True))
    op.execute("UPDATE generations SET activated_at = created_at")
    op.create_table(
        "evaluations",
        sa.Column("collection_id", sa.String(length=64), nullable=False),
        sa.Column("queries", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_evaluations_collection_id_collections")
        ),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_evaluations")),
    )
