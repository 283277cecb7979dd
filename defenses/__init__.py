"""Defenses of training data. One file is one defense; the file's name is its registered name."""
