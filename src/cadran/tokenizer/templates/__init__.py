"""Chat formats in use, by name: one Jinja file each, for models that store no template. See ``named``."""
