"""Finding parameters of a defense: configurations are ordinary trials, and chosen by results."""
