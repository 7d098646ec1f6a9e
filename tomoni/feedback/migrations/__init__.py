"""The schema's history, for Alembic: one step a file, the first one too. Steps are only ever added."""
