"""Runs that verify, from hand-made records, for the tests of the leaderboard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.files import write_text
from harness.core.records import Movement, TrialRecord
from harness.core.spec import PROTOCOL, digest
from harness.report.build import build_report
from harness.report.checksums import CHECKSUMS, checksums
from tests.report_runs import outcome, record, write_run

HITS = {"none": 600, "jpeg": 120, "puregen_ebm": 20}


def verifiable(one: TrialRecord, **params: Mapping[str, Any]) -> TrialRecord:
    """A record with more parameters, named by the hash of its spec as real ones are."""
    spec = {
        role: {**value, **params.get(role, {})} if isinstance(value, dict) else value
        for role, value in one.spec.items()
    }
    spec_id = digest({"protocol": PROTOCOL, "trial": spec})[:12]
    per_class = [one.test_correct // 10] * 10
    per_class[0] += one.test_correct % 10
    return dataclasses.replace(one, spec=spec, spec_id=spec_id, class_correct=tuple(per_class))


def make_run(
    folder: Path,
    name: str = "first",
    *,
    hits: Mapping[str, int] = HITS,
    eps_255: int = 8,
    targets: tuple[int, ...] = (2, 7),
    partial: bool = False,
    report: bool = True,
) -> Path:
    """A run: Narcissus against the defenses of ``hits`` (of 1000 images).

    Its report costs seconds; without one there are the checksums alone.
    """
    floors = [outcome("x1", 30, 1000, "narcissus", t) for t in targets]
    records = [verifiable(record(floors=floors, movement=Movement(500, 500, 0, 0.0, None, 0)))]
    for defense, count in hits.items():
        records += [
            verifiable(
                record("narcissus", defense, goal="triggered", target=t, correct=740 - t,
                       probes={"x1": (count + t, 1000)}),
                attack={"eps_255": eps_255, "adv_label": t},
            )
            for t in targets
        ]  # fmt: skip
    told = {
        "name": name, "title": f"The {name} study", "protocol": PROTOCOL, "partial": partial,
        "command": f"puregen-bench run {name}.yaml", "study": {"name": name},
        "trials": [{"spec_id": r.spec_id, "labels": r.labels} for r in records],
    }  # fmt: skip
    run = write_run(folder / name, records, told)
    if report:
        build_report(run)
    else:
        write_text(run / "report" / CHECKSUMS, checksums(run, []))
    return run
