"""What a run leaves for reports: unknown and simulated cost, people's decisions and waits, and why calls were refused."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    with op.batch_alter_table("run_records") as table:
        table.add_column(sa.Column("unknown_cost_calls", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("reviews", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("waits", sa.Text, nullable=False, server_default=""))
        table.add_column(sa.Column("reasons", sa.Text, nullable=False, server_default=""))
        table.add_column(sa.Column("simulated", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("run_records") as table:
        for column in ("simulated", "reasons", "waits", "reviews", "unknown_cost_calls"):
            table.drop_column(column)
