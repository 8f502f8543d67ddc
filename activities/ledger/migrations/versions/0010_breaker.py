"""What the anomaly breaker did, and agents that may do less by themselves than their file says."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "trips",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("mode_before", sa.String(16), nullable=False),
        sa.Column("mode_after", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("put_back_at", sa.BigInteger),
        sa.Column("put_back_by", sa.String(200)),
        sa.Column("put_back_reason", sa.Text),
    )
    op.create_index("trips_by_agent", "trips", ["agent", "at"])
    op.create_table(
        "mode_overrides",
        sa.Column("agent", sa.String(200), primary_key=True),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("set_at", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )
