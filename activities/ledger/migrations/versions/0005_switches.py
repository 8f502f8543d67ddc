"""Switches of every scope, what was done to them, and what of an effect they are matched against."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("kill_switches") as table:
        table.alter_column("scope", type_=sa.String(300), existing_type=sa.String(255), existing_nullable=False)
    op.create_table(
        "pauses",
        sa.Column("scope", sa.String(300), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("set_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "switch_log",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("command", sa.String(100), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("scope", sa.String(300), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("switch_log_by_command", "switch_log", ["command"])
    op.create_index("switch_log_by_scope", "switch_log", ["scope", "id"])
    op.add_column("effects", sa.Column("risk", sa.String(16), nullable=False, server_default=""))
    op.add_column("effects", sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("effects_by_epoch", "effects", ["epoch"])
    op.create_index("effects_open", "effects", ["state"])


def downgrade() -> None:
    for index in ("effects_open", "effects_by_epoch"):
        op.drop_index(index, "effects")
    for column in ("epoch", "risk"):
        op.drop_column("effects", column)
    for table in ("switch_log", "pauses"):
        op.drop_table(table)
