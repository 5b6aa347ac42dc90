"""Rows that are deleted by hand are changes too."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SQL = Path(__file__).with_suffix(".sql")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for statement in SQL.read_text().split("\n-- ;\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise RuntimeError("the ledger is append-only: go forward with a new migration")
