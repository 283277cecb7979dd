"""The study that reports what a search has chosen, on targets and seeds it was not chosen by."""

from __future__ import annotations

from collections.abc import Sequence

from harness.search.configuration import other_defenses, search_of
from harness.search.space import Values
from harness.study import StudySpec, check_study


def held_out_study(study: StudySpec, chosen: Sequence[Values]) -> StudySpec:
    """Return an ordinary study: the other defenses and what was chosen, under ``search.report``.

    Raises:
        UsageError: If the targets or seeds cannot be used.
    """
    search = search_of(study)
    given = study.raw["defenses"]
    given = given if isinstance(given, list) else [given]
    there = other_defenses(study)
    defenses = [d for i, d in enumerate(given) if i != search.index]
    defenses += [search.given(values) for values in chosen if search.spec(values) not in there]
    raw = {k: v for k, v in study.raw.items() if k != "search"}
    return check_study({**raw, "defenses": defenses, **search.report}, search.base)
