"""Effects, kill switches and their common order."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "effects",
        sa.Column("idempotency_key", sa.String(64), primary_key=True),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("workflow_id", sa.String(255), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("tool", sa.String(200), nullable=False),
        sa.Column("resource", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("amount_cents", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("action_digest", sa.String(80), nullable=False),
        sa.Column("approvers", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reserved_at", sa.BigInteger, nullable=False),
        sa.Column("settled_at", sa.BigInteger),
    )
    op.create_index("effects_by_run", "effects", ["run_id"])
    op.create_index("effects_by_subject", "effects", ["subject", "tool", "reserved_at"])
    op.create_table(
        "kill_switches",
        sa.Column("scope", sa.String(255), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("set_at", sa.BigInteger, nullable=False),
    )
    control = op.create_table(
        "control", sa.Column("id", sa.Integer, primary_key=True), sa.Column("epoch", sa.BigInteger, nullable=False)
    )
    op.bulk_insert(control, [{"id": 1, "epoch": 0}])


def downgrade() -> None:
    for table in ("effects", "kill_switches", "control"):
        op.drop_table(table)
