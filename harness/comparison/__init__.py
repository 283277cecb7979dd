"""Two runs side by side: rows that both have, rows of one alone, and how their studies differ."""
