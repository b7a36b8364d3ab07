"""From a model that continues texts to one that answers: the rows it learns from and how they become tokens."""
