"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _people()
    _pool()
    _judgements()
    _guideline()
    _inbox()


def _people() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", COUNT, autoincrement=False, nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("ref", sa.String(200), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
    )
    op.create_table(
        "persons",
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("lang", sa.String(20), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_persons"),
        sa.UniqueConstraint("name", name="uq_persons_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(128), nullable=False),
        sa.Column("person", sa.String(200), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_sessions"),
        sa.ForeignKeyConstraint(["person"], ["persons.id"], name="fk_sessions_person"),
    )
    op.create_index("ix_sessions_person", "sessions", ["person"])


def _pool() -> None:
    op.create_table(
        "prompts",
        sa.Column("number", COUNT, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("provenance", sa.String(20), nullable=False),
        sa.Column("by", sa.String(200), nullable=True),
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("held_out", sa.Boolean(), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_prompts"),
        sa.UniqueConstraint("id", name="uq_prompts_id"),
    )
    op.create_index("ix_prompts_by", "prompts", ["by"])
    op.create_table(
        "answers",
        sa.Column("number", COUNT, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("prompt", sa.String(64), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("version_hash", sa.String(128), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=True),
        sa.Column("logprob", sa.Float(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_answers"),
        sa.UniqueConstraint("id", name="uq_answers_id"),
        sa.ForeignKeyConstraint(["prompt"], ["prompts.id"], name="fk_answers_prompt"),
    )
    op.create_index("ix_answers_prompt", "answers", ["prompt"])
    op.create_index("ix_answers_version", "answers", ["version"])
    op.create_table(
        "pairs",
        sa.Column("number", COUNT, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("prompt", sa.String(64), nullable=False),
        sa.Column("first", sa.String(200), nullable=False),
        sa.Column("second", sa.String(200), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("selected_by", sa.String(40), nullable=False),
        sa.Column("person", sa.String(200), nullable=True),
        sa.Column("expected", sa.String(20), nullable=True),
        sa.Column("created", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_pairs"),
        sa.UniqueConstraint("id", name="uq_pairs_id"),
        sa.ForeignKeyConstraint(["prompt"], ["prompts.id"], name="fk_pairs_prompt"),
        sa.ForeignKeyConstraint(["first"], ["answers.id"], name="fk_pairs_first"),
        sa.ForeignKeyConstraint(["second"], ["answers.id"], name="fk_pairs_second"),
    )
    op.create_index("ix_pairs_prompt", "pairs", ["prompt"])
    op.create_index("ix_pairs_purpose", "pairs", ["purpose"])


def _judgements() -> None:
    op.create_table(
        "judgements",
        sa.Column("sequence", COUNT, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("person", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("pair", sa.String(200), nullable=True),
        sa.Column("skipped", sa.Boolean(), nullable=False),
        sa.Column("chain", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("received", sa.String(40), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_judgements"),
        sa.UniqueConstraint("id", name="uq_judgements_id"),
        sa.UniqueConstraint("key", name="uq_judgements_key"),
        sa.ForeignKeyConstraint(["person"], ["persons.id"], name="fk_judgements_person"),
    )
    op.create_index("ix_judgements_person_sequence", "judgements", ["person", "sequence"])
    op.create_index("ix_judgements_pair", "judgements", ["pair"])
    op.create_index("ix_judgements_chain", "judgements", ["chain"])
    op.create_index("ix_judgements_state_sequence", "judgements", ["state", "sequence"])


def _guideline() -> None:
    op.create_table(
        "rules",
        sa.Column("number", COUNT, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("by", sa.String(200), nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("examples", sa.Text(), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("last", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_rules"),
    )
    op.create_index("ix_rules_id", "rules", ["id"])
    op.create_table(
        "settings",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_settings"),
    )


def _inbox() -> None:
    op.create_table(
        "segments",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_segments"),
    )
    op.create_table(
        "aside",
        sa.Column("segment", sa.String(200), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("waits_for", sa.String(200), nullable=True),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("segment", "offset", name="pk_aside"),
    )
    op.create_index("ix_aside_waits_for", "aside", ["waits_for"])
