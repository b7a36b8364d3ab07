"""A user's rows: files in any shape in use, read into the few types that the stages learn from."""
