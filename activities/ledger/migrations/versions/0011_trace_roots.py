"""Signed roots of runs, and the runs that have none yet: all that were recorded before."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "trace_roots",
        sa.Column("namespace", sa.String(200), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("workflow_id", sa.String(1000), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("root", sa.Text, nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("previous", sa.String(80), nullable=False),
        sa.Column("signature", sa.String(100), nullable=False),
        sa.Column("key_id", sa.String(80), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("lines", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("sealed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("trace_roots_by_run", "trace_roots", ["run_id"], unique=True)
    op.create_index("trace_roots_by_workflow", "trace_roots", ["workflow_id"])
    op.create_table(
        "to_seal",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("namespace", sa.String(200), nullable=False),
        sa.Column("workflow_id", sa.String(1000), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("queued_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
    )
    op.create_index("to_seal_by_time", "to_seal", ["namespace", "due_at"])
    op.execute(
        "INSERT INTO to_seal (run_id, namespace, workflow_id, agent, queued_at, due_at, tries, why) "
        "SELECT run_id, '', workflow_id, agent, recorded_at, recorded_at, 0, '' FROM run_records"
    )


def downgrade() -> None:
    for table in ("to_seal", "trace_roots"):
        op.drop_table(table)
