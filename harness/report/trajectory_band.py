"""A curve over the steps with its uncertainty: thin functions over scipy, no formula of our own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.report.statistics import CONFIDENCE

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """Means over images at S step counts, each array float64 (S,).

    Attributes:
        mean: Over the images.
        error: Standard error of the mean.
        low, high: Ends of its 95 % t interval; both the mean where all images have the same value.
    """

    mean: Values
    error: Values
    low: Values
    high: Values


def band(values: NDArray[np.float32]) -> Band:
    """Return the means over the images of (S, N), N at least 2, with errors and t intervals."""
    sample = values.astype(np.float64)
    mean, error = sample.mean(1), stats.sem(sample, axis=1)
    # Scaled here: scipy has no interval around a mean without spread, as at step 0.
    low, high = stats.t.interval(CONFIDENCE, sample.shape[1] - 1)
    return Band(mean, error, mean + low * error, mean + high * error)
