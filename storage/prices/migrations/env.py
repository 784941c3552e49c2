"""Runs the migrations on the connection that storage/prices/database.py hands over."""

from __future__ import annotations

from alembic import context

# The caller's transaction spans all of it; Alembic begins none of its own.
context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
