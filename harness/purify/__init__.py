"""Purifying anyone's own images: a folder, an array file or a table, of any size."""
