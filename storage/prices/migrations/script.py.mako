"""${message}."""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the database forward; it never goes back, for observations are never dropped."""
    ${upgrades if upgrades else "pass"}
