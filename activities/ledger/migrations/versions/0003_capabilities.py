"""Capabilities, and the one under which each effect was reserved; and what an agent wrote lately."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "capabilities",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.Column("tools", sa.Text, nullable=False),
        sa.Column("resource", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("ceiling_cents", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("idempotency_key", sa.String(64), nullable=False),
        sa.Column("delegation", sa.String(64), nullable=False),
        sa.Column("issuer", sa.String(200), nullable=False),
        sa.Column("key_id", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("minted_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("revoked_by", sa.String(200)),
        sa.Column("revoked_reason", sa.Text),
    )
    op.create_index("capabilities_by_run", "capabilities", ["run_id"])
    op.create_index("capabilities_by_subject", "capabilities", ["subject", "agent", "kind"])
    with op.batch_alter_table("effects") as effects:
        effects.add_column(sa.Column("capability", sa.String(64), nullable=False, server_default=""))
    op.create_index("effects_by_agent", "effects", ["agent", "reserved_at"])


def downgrade() -> None:
    op.drop_index("effects_by_agent", "effects")
    with op.batch_alter_table("effects") as effects:
        effects.drop_column("capability")
    op.drop_table("capabilities")
