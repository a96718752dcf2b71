"""Alembic's entry point. `trainingtask_history.schema.migrate` opens the transaction and holds the lock around it."""

from alembic import context
from sqlmodel import SQLModel

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
