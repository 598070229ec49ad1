"""Every closing of a version, not only its newest: what a replay between two of them saw."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table. Of versions that were closed before, the newest closing is all that is known."""
    op.create_table(
        "closings",
        sa.Column("version_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_closings_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "seq", name=op.f("pk_closings")),
    )
    op.execute(
        "INSERT INTO closings (version_id, seq, valid_to) "
        "SELECT id, closed_seq, valid_to FROM versions WHERE closed_seq < 9223372036854775807"
    )
