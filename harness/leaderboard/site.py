"""The site of a leaderboard: pages that load nothing, in which nothing of a file is code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from harness.core.errors import DataError, UsageError
from harness.core.files import write_text
from harness.core.protocols import REGISTRIES
from harness.leaderboard.boards import Board, boards_of, flat
from harness.leaderboard.reading import read_submission, submission_of
from harness.leaderboard.schema import NAME as SCHEMA_FILE
from harness.leaderboard.schema import schema_text
from harness.leaderboard.tables import HEADS, explained, lines_of, page_of
from harness.leaderboard.values import MeasuredRun, Submission
from harness.leaderboard.writing import About, make_submission
from harness.report import format as fmt
from harness.report.collect import read_run

_OURS = re.compile(r"[0-9a-f]{12}\.(html|json)")
_LONG = 24  # a table with more rows is folded on a submission's page


@dataclass(frozen=True, slots=True)
class Site:
    """What was built: the first page, how much is on it, and what was left out."""

    page: Path
    submissions: int
    tables: int
    notes: tuple[str, ...]


def build_site(sources: Sequence[Path], out: Path, title: str) -> Site:
    """Build the site; a page of an earlier one that this one does not have is removed.

    Args:
        sources: Result files and run folders; a run is verified first.
        out: Folder of the site.
        title: Of its first page.

    Raises:
        UsageError: If a source is refused (:func:`harness.leaderboard.reading.read_submission`),
            or ``out`` holds something else.
    """
    _check_folder(out)
    found: dict[str, Submission] = {}
    notes = []
    for source in sources:
        one = _of_run(source) if source.is_dir() else read_submission(source)
        if one.key in found:
            notes.append(f"{str(source)!r} says what an earlier one says; it is left out.")
        found.setdefault(one.key, one)
    submissions = tuple(found.values())
    boards = boards_of(submissions)
    pages = {
        "index.html": _index(title, submissions, boards),
        "submit.html": _submit(title),
        SCHEMA_FILE: schema_text(),
    }
    for one in submissions:
        pages[page_of(one)] = _details(title, one, boards)
        pages[page_of(one).replace(".html", ".json")] = _text(one.raw)
    try:
        for name, text in pages.items():
            write_text(out / name, text)
    except OSError as error:
        raise UsageError(f"site {str(out)!r} cannot be written: {error.strerror}.") from error
    for file in (out / "submissions").iterdir():
        if _OURS.fullmatch(file.name) and f"submissions/{file.name}" not in pages:
            file.unlink()
    return Site(out / "index.html", len(submissions), len(boards), tuple(notes))


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {str(out)!r} is a file; allowed: a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / SCHEMA_FILE).is_file():
        raise UsageError(
            f"--out {str(out)!r} holds something else; allowed: a new folder, an empty one, or an "
            "earlier site."
        )


def _of_run(folder: Path) -> Submission:
    study = read_run(folder).study
    name = study.title or study.name or folder.resolve().name
    raw, wrong = make_submission(folder, About(name[:300], "who built this site"))
    if wrong:
        raise DataError(
            f"run {str(folder)!r} does not verify ({len(wrong)} discrepancies; "
            f"see: puregen-bench verify {folder}). The first: {wrong[0]}"
        )
    return submission_of(json.loads(_text(raw)), f"run {str(folder)!r}", "run")


def _text(raw: Any) -> str:
    return json.dumps(raw, indent=1, ensure_ascii=False) + "\n"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PrefixLoader({
            "report": PackageLoader("harness.report"),
            "board": PackageLoader("harness.leaderboard"),
        }),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _render(page: str, scripts: Sequence[str], **values: Any) -> str:
    """Render a page that runs its own scripts and no others: the browser is told their hashes."""
    environment = _environment()
    texts = [environment.get_template(name).render() for name in scripts]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in texts
    ]
    return environment.get_template(f"board/{page}").render(
        # Ours, from the package: the only text that is not escaped.
        scripts=[Markup(text) for text in texts],
        policy=" ".join(hashes) or "'none'", **values,
    )  # fmt: skip


def _index(title: str, submissions: Sequence[Submission], boards: tuple[Board, ...]) -> str:
    measured = [b for b in boards if any(s.measured for s in b.standings)]
    return _render(
        "index.html.j2", ["report/report.js"], title=title, root="", heads=HEADS,
        boards=[(b, lines_of(b)) for b in measured],
        claimed=[(b, lines_of(b)) for b in boards if b not in measured],
        submissions=[(s, page_of(s)) for s in submissions], explained=explained(boards),
    )  # fmt: skip


def _details(title: str, one: Submission, boards: tuple[Board, ...]) -> str:
    here = [b for b in boards if any(s.submission is one for s in b.standings)]
    run = one.run
    return _render(
        "details.html.j2", [], title=title, root="../", one=one, run=run,
        file=f"{one.key}.json", boards=here, rows=_rows(run) if run else (), long=_LONG,
        study=yaml.safe_dump(run.study.file, sort_keys=False, allow_unicode=True) if run else "",
        settings=_facts([run.study.settings]) if run else (),
        environment=_facts(run.environment) if run else (),
    )  # fmt: skip


def _submit(title: str) -> str:
    known = {role: registry.names() for role, registry in REGISTRIES.items()}
    return _render(
        "submit.html.j2", ["board/submit.js"], title=title, root="", known=known,
        schema=json.dumps(json.loads(schema_text()), indent=1),
    )  # fmt: skip


def _rows(run: MeasuredRun) -> list[tuple[str, ...]]:
    """The rows with the counts behind them, of the headline probe."""
    found: list[tuple[str, ...]] = []
    for row in run.rows:
        hits, images = _sums(row.probes[0].counts if row.probes else ())
        correct, tested = _sums(row.accuracy_counts)
        found.append((
            row.labels["attack"], row.labels["defense"], fmt.percent_interval(row.success),
            f"{hits} of {images}" if images else fmt.MISSING, fmt.percent_interval(row.accuracy),
            f"{correct} of {tested}" if tested else fmt.MISSING, str(row.trials),
            ", ".join(row.flags),
        ))  # fmt: skip
    return found


def _sums(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    pairs = list(counts)
    return sum(hits for hits, _ in pairs), sum(total for _, total in pairs)


def _facts(sources: Sequence[Any]) -> list[tuple[str, str]]:
    """Every key with its distinct values: trials may differ."""
    values: dict[str, dict[str, None]] = {}
    for source in sources:
        for key, value in (pair for name in source for pair in flat(source[name], name)):
            values.setdefault(key, {})[str(value)] = None
    return [(key, " | ".join(seen)) for key, seen in values.items()]
