"""What is counted towards caps across runs, call by call and minute by minute."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "charges",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("settled_at", sa.BigInteger),
    )
    op.create_index("charges_by_agent", "charges", ["kind", "agent", "at"])
    op.create_index("charges_by_time", "charges", ["kind", "at"])
    op.create_table(
        "usage_minutes",
        sa.Column("scope", sa.String(300), primary_key=True),
        sa.Column("minute", sa.BigInteger, primary_key=True),
        sa.Column("tool_calls", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
    )
    op.create_index("effects_by_time", "effects", ["reserved_at"])


def downgrade() -> None:
    op.drop_index("effects_by_time", "effects")
    for table in ("usage_minutes", "charges"):
        op.drop_table(table)
