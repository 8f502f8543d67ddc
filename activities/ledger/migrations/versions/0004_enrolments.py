"""Signing keys that people enrolled by logging in, and who was suspended."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "enrolments",
        sa.Column("kid", sa.String(64), primary_key=True),
        sa.Column("x", sa.String(64), nullable=False),
        sa.Column("id_token", sa.Text, nullable=False),
        sa.Column("enrolled_at", sa.BigInteger, nullable=False),
        sa.Column("withdrawn_at", sa.BigInteger),
    )
    op.create_index("enrolments_by_time", "enrolments", ["enrolled_at"])
    op.create_table(
        "standings",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("sub", sa.String(200), nullable=False),
        sa.Column("suspended", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("set_at", sa.BigInteger, nullable=False),
    )
    op.create_index("standings_by_sub", "standings", ["sub", "id"])


def downgrade() -> None:
    for table in ("enrolments", "standings"):
        op.drop_table(table)
