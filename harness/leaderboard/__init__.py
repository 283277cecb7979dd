"""Results of several studies and people on one static site, each held to a schema."""
