"""What a run cost: seconds by stage, and the calls that worked on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence

from harness.core.records import Stage
from harness.report.collect import Study
from harness.report.table import Entry, Head, Table
from harness.report.trials import Trial

NOTE = (
    "Seconds of processes that ran one after the other or side by side, each counted once: a "
    "poison set for all defenses, purified images for all classifiers, a chain for all its numbers "
    "of steps. Clean images that a defense "
    "purifies once for several attacks count in each of them. Not counted: training of generators, "
    "surrogates and pretrained networks, which the store keeps for every run."
)

_HEADS = (
    Head("Stage", numeric=False),
    Head("Made", "Poison sets, purified sets (a chain is one), trainings."),
    Head("Minutes"), Head("Peak memory (GiB)", "Highest of the worker processes in that stage."),
)  # fmt: skip
_GPU_HEAD = Head(
    "GPU memory (GiB)",
    "Most that one process held on its GPU in that stage; CUDA itself takes some 0.5 besides.",
)

_CALL_HEADS = (
    Head("Started", numeric=False), Head("Minutes", "Wall time."), Head("Trials finished"),
    Head("On", numeric=False),
)  # fmt: skip


def effort_table(trials: Sequence[Trial]) -> Table:
    """Return one row per stage: how often it was worked, minutes in all, and peak memory."""
    stages: tuple[tuple[str, str, Callable[[Trial], Hashable]], ...] = (
        ("Crafting poisons", "poison", lambda t: _id(t, "dataset", "attack", seeds=("poison",))),
        ("Purification", "purify",
         lambda t: _id(t, "dataset", "attack", seeds=("poison", "purify")) + _chain(t)),
        ("Training classifiers", "train", lambda t: t.record.spec_id),
        ("Evaluation", "evaluate", lambda t: t.record.spec_id),
    )  # fmt: skip
    rows = []
    for title, stage, identity in stages:
        once: dict[Hashable, Stage] = {}
        for trial in trials:
            if stage in trial.record.stages:
                here = trial.record.stages[stage]
                # Of the snapshots of a chain the last one's seconds hold those of the others.
                once[identity(trial)] = max(
                    here, once.get(identity(trial), here), key=lambda s: s.seconds
                )
        spent = [s for s in once.values() if s.seconds > 0]
        if spent:
            minutes, peak, gpu = (
                sum(s.seconds for s in spent) / 60,
                max(s.peak_mib for s in spent) / 1024,
                max(s.gpu_peak_mib for s in spent) / 1024,
            )
            rows.append((
                Entry(title, title), Entry(str(len(spent)), len(spent)),
                Entry(f"{minutes:.1f}", minutes), Entry(f"{peak:.1f}", peak),
                Entry(f"{gpu:.1f}" if gpu else "", gpu),
            ))  # fmt: skip
    if not any(gpu.value for *_, gpu in rows):
        return Table(_HEADS, tuple(row[:-1] for row in rows))
    return Table((*_HEADS, _GPU_HEAD), tuple(rows))


def calls_table(study: Study, finished: str = "Trials finished") -> Table:
    """Return one row per call that finished trials; one that was killed has no time.

    Args:
        study: What the run's folder says.
        finished: Heading of what was finished.
    """
    rows = []
    for call in study.sessions:
        if call.get("trials") == 0:
            continue
        seconds, count = call.get("seconds"), call.get("trials")
        rows.append((
            Entry(str(call.get("started", ""))),
            Entry("killed" if seconds is None else f"{seconds / 60:.1f}", seconds),
            Entry("" if count is None else str(count), count), Entry(_place(call)),
        ))  # fmt: skip
    heads = (*_CALL_HEADS[:2], Head(finished), *_CALL_HEADS[3:])
    return Table(heads, tuple(rows))


def _place(call: Mapping[str, object]) -> str:
    counts = [f"{call[key]} {word}" for key, word in
              (("nodes", "nodes"), ("cpus", "CPUs"), ("gpus", "GPUs"), ("memory_gib", "GiB"))
              if call.get(key)]  # fmt: skip
    return ", ".join([str(call.get("executor", "")), *counts]).strip(", ")


def _chain(trial: Trial) -> str:
    """Return a defense without the parameter that grows along its chain."""
    spec = trial.record.spec.get("defense")
    if not isinstance(spec, Mapping):
        return str(spec)
    along = trial.facts.of("defense", str(spec.get("name"))).chain
    return json.dumps({k: v for k, v in spec.items() if k != along}, sort_keys=True)


def _id(trial: Trial, *roles: str, seeds: Sequence[str]) -> str:
    spec = trial.record.spec
    return json.dumps([[spec.get(r) for r in roles], [trial.seeds.get(s) for s in seeds],
                       trial.target], sort_keys=True)  # fmt: skip
