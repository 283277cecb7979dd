"""Types, registries, specs, seeds and errors: imported by all, imports none of the rest."""
