"""Generative models that purify images: networks, samplers, training and checkpoints."""
