"""Alembic's migrations; `server/schema.py` runs them at control's start."""
