"""Numbers as people read them."""


def count_of(number: int | None) -> str:
    """A count in thousands, millions, ...: ``135 M``; ``-`` for None."""
    if number is None:
        return "-"
    return _scaled(number, ("", " k", " M", " G", " T", " P"))


def bytes_of(number: int | None) -> str:
    """Bytes in decimal units: ``98.4 MB``; ``-`` for None."""
    if number is None:
        return "-"
    return _scaled(number, (" B", " kB", " MB", " GB", " TB", " PB"))


def _scaled(number: int, units: tuple[str, ...]) -> str:
    value, step = float(number), 0
    while value >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    digits = 0 if step == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{units[step]}"
