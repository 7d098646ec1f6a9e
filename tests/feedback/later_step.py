"""A step such as a later version may have: SQLite has to write the table anew for it, and others point to that table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("persons") as persons:
        persons.add_column(sa.Column("nickname", sa.String(100), nullable=True))
        persons.alter_column("lang", existing_type=sa.String(20), type_=sa.String(40), existing_nullable=False)
    op.execute("UPDATE persons SET nickname = name")
    op.create_index("ix_persons_nickname", "persons", ["nickname"])
