"""The stages of a pipeline, one file each, in the order in which text becomes an assistant."""
