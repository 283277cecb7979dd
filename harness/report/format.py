"""Numbers as text: percent stands only here, with one decimal, and an interval as [lo, hi]."""

from __future__ import annotations

from harness.report.statistics import Interval

MISSING = "-"


def percent(share: float | None) -> str:
    """Return a share as percent with one decimal, without the sign ``%``.

    >>> percent(0.1234)
    '12.3'
    """
    return MISSING if share is None else _one_decimal(100 * share)


def points(difference: float | None) -> str:
    """Return a difference of shares in percentage points, always with its sign.

    >>> points(0.012), points(-0.0001)
    ('+1.2', '+0.0')
    """
    if difference is None:
        return MISSING
    text = _one_decimal(100 * difference)
    return text if text.startswith("-") else f"+{text}"


def percent_interval(interval: Interval | None) -> str:
    """Return ``71.7 [69.0, 74.3]``, or the estimate alone where there is no interval."""
    if interval is None:
        return MISSING
    return percent(interval.value) + _ends(interval, signed=False)


def points_interval(interval: Interval | None) -> str:
    """Return ``+1.2 [-0.5, +2.9]``."""
    if interval is None:
        return MISSING
    return points(interval.value) + _ends(interval, signed=True)


def seconds(value: float | None) -> str:
    """Return seconds with one decimal below ten, whole above.

    >>> seconds(3.14), seconds(314.0)
    ('3.1', '314')
    """
    if value is None:
        return MISSING
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def distance(value: float | None) -> str:
    """Return an L2 distance with two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def _ends(interval: Interval, signed: bool) -> str:
    if interval.low is None or interval.high is None:
        return ""
    show = points if signed else percent
    return f" [{show(interval.low)}, {show(interval.high)}]"


def _one_decimal(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text
