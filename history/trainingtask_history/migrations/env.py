"""Alembic's entry point; `trainingtask_history.migrations.runner.migrate` opens the transaction and holds the lock."""

from alembic import context
from sqlmodel import SQLModel

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
