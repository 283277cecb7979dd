"""Classifiers. One file is one architecture; the file's name is its registered name."""
