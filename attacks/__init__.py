"""Attacks on training data. One file is one attack; the file's name is its registered name."""
