"""The declarative base of all tables of the server's state."""

from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """What every table stands on. Every table is declared in a file of its own in this folder."""
