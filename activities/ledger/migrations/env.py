"""Alembic's entry: runs migrations on the connection that `Ledger.migrate` hands over."""

from alembic import context

from activities.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
