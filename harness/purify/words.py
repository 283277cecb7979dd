"""What a person says to, and hears from, a purification."""

from __future__ import annotations

from harness.core.errors import UsageError
from harness.core.params import ComponentSpec, complete
from harness.core.protocols import DEFENSES
from harness.core.values import Json
from harness.core.yaml_text import read_yaml
from harness.purify.job import Job
from harness.shared_training import parse_assignments

SHOWN = 4  # of the files that are left out


def read_defense(text: str, assignments: tuple[str, ...]) -> ComponentSpec:
    """Return the defense of ``--defense`` and ``--set``, checked.

    Raises:
        UsageError: If there is no such defense, or it lacks a parameter or refuses one.
    """
    raw = read_yaml(text, "--defense")
    given: dict[str, Json] = {"name": raw} if isinstance(raw, str) else raw
    if not isinstance(given, dict):
        raise UsageError(f"--defense is a name, or a mapping with a name; got {text!r}.")
    return complete(DEFENSES, {**given, **parse_assignments(assignments)}, "--defense")


def summary(job: Job, manifest: dict[str, Json]) -> list[str]:
    """Return what was done, in a few lines."""
    count, changed = manifest["images"], manifest["changed"]
    left = job.open().left_out
    listed = ", ".join(left[:SHOWN]) + (", …" if len(left) > SHOWN else "")
    return [
        f"{changed} of {count} images changed, by {manifest['mean_l2']:.2f} on average "
        f"(L2 in units of [0, 1]), a byte by {manifest['largest_change']} at most.",
        *([f"no images of a known format, and not copied: {len(left)} ({listed})"] if left else []),
        f"images: {job.out}",
        f"manifest: {job.manifest}",
    ]
