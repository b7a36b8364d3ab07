"""What ``engine.grammar`` is made of: the vocabulary as bytes, and the tests for grammars that nothing matches."""
