"""Who settled an effect of unknown outcome; and workflow ids as long as Temporal allows."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # In a batch, for SQLite can't change the type of a column; it makes the table anew, rows and indexes included.
    with op.batch_alter_table("effects") as effects:
        effects.alter_column("workflow_id", existing_type=sa.String(255), type_=sa.String(1000), existing_nullable=False)
        effects.add_column(sa.Column("resolved_by", sa.String(200)))
        effects.add_column(sa.Column("resolved_reason", sa.Text))
        effects.add_column(sa.Column("resolved_at", sa.BigInteger))


def downgrade() -> None:
    with op.batch_alter_table("effects") as effects:
        for column in ("resolved_at", "resolved_reason", "resolved_by"):
            effects.drop_column(column)
        effects.alter_column("workflow_id", existing_type=sa.String(1000), type_=sa.String(255), existing_nullable=False)
