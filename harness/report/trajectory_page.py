"""The page and the files of a run of trajectories, in the look of every other report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from harness.core.facts import Facts
from harness.core.files import write_aside
from harness.report.again import again
from harness.report.checksums import CHECKSUMS, file_lines
from harness.report.collect import Study
from harness.report.components import flow
from harness.report.effort import calls_table
from harness.report.page import (
    as_yaml,
    facts,
    figure_element,
    heads,
    plain_lines,
    repeats,
    table_lines,
    template,
)
from harness.report.table import Entry, Head, Table, markdown
from harness.report.trajectories import (
    TrajectoryRun,
    Written,
    numbers_table,
    overview_table,
    read_trajectory_run,
)
from harness.report.trajectory_table import conclusions

_PARTS = (
    Head("Part", numeric=False), Head("Of", "Which trajectories.", numeric=False),
    Head("What it is", numeric=False),
    Head("Parameters", "All of them, those that the study leaves to their defaults as well.",
         numeric=False),
    Head("Identity", "SHA-256, its first 16 digits: of a dataset the images and labels; of the "
         "others the code, the parameters, and the networks and data that they name.",
         numeric=False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrajectoryReport:
    """What was written.

    Attributes:
        page: The HTML page.
        files: Every file written, the page among them.
        lines: What each trajectory found, for people.
    """

    page: Path
    files: tuple[Path, ...]
    lines: tuple[str, ...]


def build_trajectory_report(path: Path) -> TrajectoryReport:
    """Write ``RUN/report`` from what a run's trajectories have written: page, tables and figures.

    Raises:
        UsageError: If no trajectory in the folder can be read.
    """
    run = read_trajectory_run(path)
    overview = overview_table(run)
    contents = {
        "overview.md": markdown(overview).encode(),
        "overview.csv": _csv(overview).encode(),
    }
    for one in run.followed:
        contents[f"{one.name}.csv"] = one.csv.encode()
        contents[f"{one.name}.md"] = markdown(numbers_table(one)).encode()
        for drawing in one.drawings:
            contents[f"figures/{one.name}_{drawing.name}.png"] = drawing.png
            if drawing.svg:
                contents[f"figures/{one.name}_{drawing.name}.svg"] = drawing.svg.encode()
    contents["index.html"] = render_trajectories(run).encode()
    folder = path / "report"
    files = [folder / name for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        _write(file, content)
    sources = sorted((path / "trajectories").glob("*/*"))
    sums = file_lines([path / "study.json", *sources, *sorted(files)], folder)
    _write(folder / CHECKSUMS, sums.encode())  # last: it vouches for the rest
    for stale in {*(folder / "figures").glob("*"), *folder.glob("*.csv"), *folder.glob("*.md")}:
        if stale not in files:  # of a trajectory that the study no longer has
            stale.unlink()
    lines = tuple(f"{one.name}: {said}" for one in run.followed for said in conclusions(one.note))
    return TrajectoryReport(folder / "index.html", (*files, folder / CHECKSUMS), lines)


def _write(path: Path, content: bytes) -> None:
    write_aside(path, lambda aside: aside.write_bytes(content))


def _csv(table: Table) -> str:
    import pandas as pd  # takes a second to import, and only this needs it

    titles = [head.title for head in table.heads]
    rows = [[entry.value for entry in row] for row in table.rows]
    return str(pd.DataFrame(rows, columns=titles).to_csv(index=False, lineterminator="\n"))


def render_trajectories(run: TrajectoryRun) -> str:
    """Return the page."""
    study, notes = _anywhere(run.study), [one.note for one in run.followed]
    overview, parts, calls = (
        overview_table(run),
        _parts(run),
        calls_table(study, "Trajectories finished"),
    )
    environments = [note["environment"] for note in notes]
    return template("trajectories.html.j2").render(
        title=study.title or study.name,
        name=study.name,
        counts=_counts(run),
        repeats=repeats(study.study),
        followed=[_section(one, f"t{i}") for i, one in enumerate(run.followed)],
        overview_heads=heads(overview),
        overview_lines=table_lines(overview),
        missing=run.missing,
        problems=run.problems,
        parts_heads=heads(parts),
        parts_lines=plain_lines(parts),
        seeds=[(one.name, str(one.note["seed"])) for one in run.followed],
        calls_heads=heads(calls),
        calls_lines=plain_lines(calls),
        seconds=[(one.name, f"{one.note['seconds']:.0f} s") for one in run.followed],
        environment=facts(environments),
        again=again(study, environments),
        command=study.command,
        overrides=study.overrides,
        study=as_yaml(study.study),
        keys=[(one.name, str(one.note["key"])) for one in run.followed],
    )


def _anywhere(study: Study) -> Study:
    """Return a study without the folders of the machine that it ran on."""
    overrides = (line.split(" → ") for line in study.overrides)
    shorter = tuple(" → ".join(map(_shorter, parts)) for parts in overrides)
    return replace(study, study=_shorter(study.study), overrides=shorter)


def _section(one: Written, prefix: str) -> dict[str, Any]:
    """Return what the page has of one trajectory; ``prefix`` keeps its ids apart."""
    table = numbers_table(one)
    return {
        "name": one.name,
        "id": f"{prefix}-numbers",
        "setting": _setting(one.note),
        "conclusions": conclusions(one.note),
        "figures": [(d, figure_element(d, f"{prefix}-{d.name}")) for d in one.drawings],
        "heads": heads(table),
        "lines": table_lines(table),
    }


def _setting(note: Mapping[str, Any]) -> str:
    data, attack = note["spec"]["dataset"], note["spec"]["attack"] or {}
    named = f"{data['name']} {PurePath(data.get('path') or '').name}".strip()
    bound = f", eps {attack['eps_255']}/255" if attack.get("eps_255") else ""
    parts = [f"{note['images']} images of {named}", f"{note['poisons']}{bound}"]
    parts.append(f"{note['generator']['kind']}, {note['unit']}")
    if note["temperature"] is not None:
        parts.append(f"temperature {note['temperature']:g}")
    return "; ".join(parts)


def _counts(run: TrajectoryRun) -> str:
    count = len(run.followed)
    said = f"{count} trajector{'ies' if count != 1 else 'y'} followed"
    return f"{said}, {len(run.missing)} missing" if run.missing else said


def _parts(run: TrajectoryRun) -> Table:
    """Return one row per component, with the trajectories that have it."""
    owners: dict[tuple[str, str, str, str], list[str]] = {}
    for one in run.followed:
        spec, identities = one.note["spec"], one.note["identities"]
        for role in ("dataset", "generator", "energy", "attack"):
            if spec.get(role) is not None:
                what = _component(role, spec[role], one.note, run.study.facts)
                key = (role, *what, identities[role][:16])
                owners.setdefault(key, []).append(one.name)
        other = spec["poisons"] or spec["trigger"]
        if spec["attack"] is None:
            bound = f"eps_255: {spec['eps_255']}" if spec["poisons"] is None else ""
            kind = f"{one.note['poisons']}"
            key = ("poison", kind, bound, identities["poison"][:16] if other else "")
            owners.setdefault(key, []).append(one.name)
        looks = ", ".join(row["steps"].removesuffix(".0") for row in one.rows[1:])
        own = f"steps: [{looks}], count: {spec['count']}"
        if one.note["temperature"] is not None:
            own += f", temperature: {one.note['temperature']:g}"
        owners.setdefault(("settings", "", own, str(one.note["key"])[:16]), []).append(one.name)
    rows = [
        tuple(Entry(text, text) for text in (role, ", ".join(names), what, parameters, identity))
        for (role, what, parameters, identity), names in owners.items()
    ]
    return Table(_PARTS, tuple(rows))


def _component(
    role: str, spec: Mapping[str, Any], note: Mapping[str, Any], known: Facts
) -> tuple[str, str]:
    """Return in words what a component is, and its parameters."""
    kind = "generator" if role == "energy" else role
    name = str(spec.get("name", note[role]["kind"] if kind == "generator" else ""))
    what = f"{name}: {known.of(kind, name).summary}"
    if kind == "generator":
        what += f" Files: SHA-256 {note[role]['digest'][:16]}."
    own = {k: _shorter(v) for k, v in spec.items() if k != "name"}
    return what, ", ".join(f"{k}: {flow(v)}" for k, v in own.items())


def _shorter(value: Any) -> Any:
    """Name a file without its folder: the identity says which it is, on any machine."""
    if isinstance(value, Mapping):
        return {k: _shorter(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shorter(v) for v in value]
    absolute = isinstance(value, str) and PurePath(value).is_absolute()
    return PurePath(value).name if absolute else value
