"""Releases, rollouts, what was done to them, and what became of cases after their runs."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("definition", sa.String(80), nullable=False),
        sa.Column("contents", sa.Text, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
    )
    op.create_index("releases_by_agent", "releases", ["agent", "first_seen"])
    op.create_table(
        "rollouts",
        sa.Column("agent", sa.String(200), primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("candidate", sa.String(80), nullable=False),
        sa.Column("stable", sa.String(80), nullable=False),
        sa.Column("judged", sa.Text, nullable=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("stage_at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "rollout_log",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("command", sa.String(100), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("rollout_log_by_command", "rollout_log", ["command"])
    op.create_index("rollout_log_by_agent", "rollout_log", ["agent", "id"])
    op.create_table(
        "outcomes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("command", sa.String(100), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("csat", sa.Integer),
        sa.Column("reopened", sa.Boolean),
        sa.Column("refunded", sa.Boolean),
        sa.Column("escalated", sa.Boolean),
        sa.Column("cost_micro_usd", sa.BigInteger),
        sa.Column("first_response_ms", sa.BigInteger),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("outcomes_by_command", "outcomes", ["command"])
    op.create_index("outcomes_by_run", "outcomes", ["run_id", "id"])


def downgrade() -> None:
    for table in ("outcomes", "rollout_log", "rollouts", "releases"):
        op.drop_table(table)
