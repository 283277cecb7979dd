"""How victims come to their weights: one file each."""
