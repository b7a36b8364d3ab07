"""The declarative base of all tables of the server's state."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """What every table stands on. Every table is declared in a file of its own, which ``tables`` imports.

    Constraints have names of their own, so that a migration can change them in every database.
    """

    metadata = MetaData(naming_convention=NAMES)
