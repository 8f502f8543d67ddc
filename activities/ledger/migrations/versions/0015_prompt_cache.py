"""What prompt caches held of a run's model calls, and what that saved."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0011"
COLUMNS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_saved_micro_usd")


def upgrade() -> None:
    with op.batch_alter_table("run_records") as table:
        for name in COLUMNS:
            table.add_column(sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("run_records") as table:
        for name in reversed(COLUMNS):
            table.drop_column(name)
