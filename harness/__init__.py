"""The benchmark itself: studies, trials, training, evaluation, tracking and reports."""

__version__ = "0.1.0"
