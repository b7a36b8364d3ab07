"""The sides of sft.py and the rows that all of them learn from."""
