"""The table of what was crafted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.craft import Crafted


def crafted_table(crafted: Sequence[Crafted]) -> Table:
    """Return one row per poison set: its size, its cost and what the attack noted of it."""
    details = list(dict.fromkeys(name for c in crafted for name in c.details))
    table = Table(box=None, pad_edge=False)
    table.add_column("attack", style="bold")
    for name in ("target", "seed", "rows", "seconds", "MiB", *details):
        table.add_column(name, justify="right")
    for c in crafted:
        target = "" if c.target is None else str(c.target)
        noted = [f"{c.details[n]:.4g}" if n in c.details else "" for n in details]
        table.add_row(
            c.label,
            target,
            str(c.seed),
            str(c.rows),
            f"{c.seconds:.1f}",
            f"{c.peak_mib:.0f}",
            *noted,
        )
    return table
