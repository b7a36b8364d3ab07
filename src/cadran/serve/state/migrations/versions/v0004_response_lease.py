"""Responses that are made in the background, and who vouches for them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """To this version."""
    op.add_column("stored_response", sa.Column("lease", sa.Double(), nullable=True))
