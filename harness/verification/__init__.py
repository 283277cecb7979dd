"""Whether the tables of a run say what its records say, and whether all records are there."""
