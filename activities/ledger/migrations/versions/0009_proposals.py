"""What people made of the proposals of agents that only draft."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "proposals",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("action_digest", sa.String(80), primary_key=True),
        sa.Column("workflow_id", sa.String(1000), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("tool", sa.String(200), nullable=False),
        sa.Column("put_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("by", sa.Text, nullable=False),
    )
    op.create_index("proposals_by_time", "proposals", ["decided_at"])
