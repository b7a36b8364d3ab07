"""Run by Alembic: the scripts work in the connection and the transaction of ``migrate``."""

from alembic import context

from cadran.serve.state import tables
from cadran.serve.state.base import Base

assert tables.TABLES  # the metadata knows them because they were imported
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,  # SQLite's is, although Alembic does not count on it
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
