"""Generators that can be trained. One file is one kind; the file's name is its registered name."""
