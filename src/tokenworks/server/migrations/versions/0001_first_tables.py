"""The first tables: accounts, catalogue, usage and journals, deployments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    _create_accounts()
    _create_hub()
    _create_serving()
    _create_journals()
    _create_usage()


def _create_accounts() -> None:
    """Who may use it."""
    op.create_table(
        "organizations",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_organizations")),
    )
    op.create_table(
        "projects",
        sa.Column("organization", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization"], ["organizations.name"], name=op.f("fk_projects_organization_organizations")
        ),
        sa.PrimaryKeyConstraint("organization", "name", name=op.f("pk_projects")),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("organization", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=255), nullable=False, comment="separated by spaces"),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization", "project"],
            ["projects.organization", "projects.name"],
            name=op.f("fk_api_keys_organization_project_projects"),
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_sha256", name=op.f("uq_api_keys_key_sha256")),
    )


def _create_hub() -> None:
    """The catalogue."""
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("architecture", sa.String(length=64), nullable=False),
        sa.Column("context_tokens", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("quantisation", sa.String(length=32), nullable=False),
        sa.Column("licence", sa.String(length=128), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_models_digest_is_sha256")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_models_size_is_positive")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_digest"), "models", ["digest"], unique=False)


def _create_serving() -> None:
    """What is served."""
    op.create_table(
        "deployments",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("aliases", sa.Text(), nullable=False, comment="JSON array of names"),
        sa.Column("engine", sa.String(length=64), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens_max", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("replicas >= 0", name=op.f("ck_deployments_replicas")),
        sa.CheckConstraint("slots >= 1", name=op.f("ck_deployments_slots")),
        sa.CheckConstraint("context_tokens >= 1", name=op.f("ck_deployments_context_tokens")),
        sa.CheckConstraint("output_tokens_max >= 1", name=op.f("ck_deployments_output_tokens_max")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_deployments")),
    )


def _create_journals() -> None:
    """Where control stands in the journals of doors."""
    op.create_table(
        "journal_positions",
        sa.Column("journal_id", sa.Text(), nullable=False),
        sa.Column("segment", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("moved_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint('segment >= 0 AND "offset" >= 0', name=op.f("ck_journal_positions_not_negative")),
        sa.PrimaryKeyConstraint("journal_id", name=op.f("pk_journal_positions")),
    )
    op.create_table(
        "unreadable_records",
        sa.Column("journal_id", sa.Text(), nullable=False),
        sa.Column("segment", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("journal_id", "segment", "offset", name=op.f("pk_unreadable_records")),
    )


def _create_usage() -> None:
    """One row per request."""
    op.create_table(
        "usage",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("client_request_id", sa.Text(), nullable=True),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nano", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("energy_microjoules", sa.BigInteger(), nullable=True),
        sa.Column("energy_source", sa.String(length=16), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("energy_source IN ('measured', 'modelled')", name=op.f("ck_usage_energy_source_known")),
        sa.CheckConstraint(
            "status IN ('completed', 'cancelled', 'interrupted', 'failed')", name=op.f("ck_usage_status_known")
        ),
        sa.CheckConstraint(
            "(energy_microjoules IS NULL) = (energy_source IS NULL)", name=op.f("ck_usage_energy_has_source")
        ),
        sa.CheckConstraint("cached_input_tokens BETWEEN 0 AND input_tokens", name=op.f("ck_usage_cached_within_input")),
        sa.CheckConstraint("cost_nano >= 0", name=op.f("ck_usage_cost_not_negative")),
        sa.CheckConstraint("energy_microjoules >= 0", name=op.f("ck_usage_energy_not_negative")),
        sa.CheckConstraint("input_tokens >= 0", name=op.f("ck_usage_input_tokens_not_negative")),
        sa.CheckConstraint("length(request_id) > 0", name=op.f("ck_usage_request_id_given")),
        sa.CheckConstraint("output_tokens >= 0", name=op.f("ck_usage_output_tokens_not_negative")),
        sa.CheckConstraint(
            "started_at_ms >= 0 AND ended_at_ms >= started_at_ms", name=op.f("ck_usage_ended_after_started")
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_usage")),
    )
    op.create_index(
        op.f("ix_usage_key_id_started_at_ms_request_id"),
        "usage",
        ["key_id", "started_at_ms", "request_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_usage_organization_started_at_ms_request_id"),
        "usage",
        ["organization", "started_at_ms", "request_id"],
        unique=False,
    )
    op.create_index(op.f("ix_usage_started_at_ms_request_id"), "usage", ["started_at_ms", "request_id"], unique=False)
