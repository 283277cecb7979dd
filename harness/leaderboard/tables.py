"""A table of the leaderboard as cells, in the form that the report's pages have."""

from __future__ import annotations

from dataclasses import dataclass

from harness.leaderboard.boards import Board, Rank, Standing
from harness.leaderboard.values import Claim, Submission
from harness.report import flags
from harness.report import format as fmt
from harness.report.page import Cell
from harness.report.statistics import Interval

HEADS = (
    ("Rank", "num c-rank", "By poison success, lowest first (availability attacks and tables "
     "without an attack: by natural accuracy, highest first). 1–3: its interval overlaps others', "
     "so that it may be any of these."),
    ("Defense", "text c-defense", "As the submission calls it; below it flags, and what keeps it "
     "from a rank."),
    ("Submission", "text c-who", "Leads to its settings, environment and hashes."),
    ("Poison success (%)", "num c-success", "Measured: headline probe, 95 % interval."),
    ("Natural accuracy (%)", "num c-accuracy", "Measured: clean test images, 95 % interval."),
    ("Trials", "num c-trials", "Finished trainings (failed ones in parentheses)."),
    ("Targets", "text c-targets", "The attacked classes or images."),
    ("Claimed success (%)", "num c-claimed-success", "As printed in a paper; nothing of it was "
     "measured here. In brackets the printed spread: the mean plus and minus one standard "
     "deviation, or of k targets of n the Wilson interval."),
    ("Claimed accuracy (%)", "num c-claimed-accuracy", "As printed in a paper; nothing of it was "
     "measured here."),
    ("Source of claim", "text c-source", "Where it is printed."),
)  # fmt: skip
_FEW = 6  # targets are listed up to so many


@dataclass(frozen=True, slots=True)
class Link:
    """A cell that leads to a submission's page."""

    text: str
    href: str


@dataclass(frozen=True, slots=True)
class BoardLine:
    """A row: its cells, whose it is, and what the page filters by."""

    cells: tuple[Cell, ...]
    link: Link
    defense: str
    classes: str


def lines_of(board: Board) -> tuple[BoardLine, ...]:
    """Return the rows of a table."""
    return tuple(_line(standing) for standing in board.standings)


def page_of(submission: Submission) -> str:
    """Return where a submission's page lies, from the first page of the site."""
    return f"submissions/{submission.key}.html"


def _line(standing: Standing) -> BoardLine:
    row, whose = standing.measured, standing.submission
    classes = []
    if row is None:
        classes.append("claim")
    elif not row.defended:
        classes.append("bare")
    elif standing.rank is None:
        classes.append("nocredit")
    cells = (
        _rank(standing.rank),
        Cell(standing.defense, standing.defense, "text c-defense", badges=_badges(standing)),
        Cell(whose.name, whose.name, "text c-who", aside=_answers(whose)),
        _estimate(row.success if row else None, "c-success"),
        _estimate(row.accuracy if row else None, "c-accuracy"),
        _trials(standing),
        _targets(standing),
        _claimed([(c.success, c) for _, c in standing.claims], "c-claimed-success"),
        _claimed([(c.accuracy, c) for _, c in standing.claims], "c-claimed-accuracy"),
        _sources(standing.claims),
    )
    return BoardLine(cells, Link(whose.name, page_of(whose)), standing.defense, " ".join(classes))


def _answers(submission: Submission) -> str:
    return f"{submission.who} (verified here)" if submission.origin == "run" else submission.who


def _badges(standing: Standing) -> tuple[str, ...]:
    row = standing.measured
    if row is None:
        return ("claim only",)
    return (*row.flags, *(("partial run",) if standing.partial else ()))


def _rank(rank: Rank | None) -> Cell:
    if rank is None:
        return Cell(fmt.MISSING, "", "num c-rank")
    text = f"{rank.best}–{rank.worst}" if rank.tied else str(rank.best)
    return Cell(text, str(rank.place), "num c-rank", aside="tied" if rank.tied else "")


def _estimate(interval: Interval | None, kind: str) -> Cell:
    if interval is None:
        return Cell(fmt.MISSING, "", f"num {kind}")
    text, _, aside = fmt.percent_interval(interval).partition(" ")
    note = f"n = {interval.n}, {interval.method}"
    return Cell(text, str(interval.value), f"num {kind}", note, aside)


def _trials(standing: Standing) -> Cell:
    row = standing.measured
    if row is None:
        return Cell(fmt.MISSING, "", "num c-trials")
    text = f"{row.trials} ({row.failed} failed)" if row.failed else str(row.trials)
    return Cell(text, str(row.trials), "num c-trials")


def _targets(standing: Standing) -> Cell:
    targets = standing.measured.targets if standing.measured else ()
    text = ", ".join(map(str, targets)) if len(targets) <= _FEW else f"{len(targets)} targets"
    return Cell(text or fmt.MISSING, text, "text c-targets")


def _claimed(pairs: list[tuple[Interval | None, Claim]], kind: str) -> Cell:
    """The claims of one row; the first decides where it sorts."""
    known = [(interval, claim) for interval, claim in pairs if interval is not None]
    if not known:
        return Cell(fmt.MISSING, "", f"num {kind}")
    texts = [fmt.percent_interval(interval) for interval, _ in known]
    first, _, aside = texts[0].partition(" ")
    if len(texts) > 1:
        first, aside = "; ".join(t.partition(" ")[0] for t in texts), ""
    trials = ", ".join(str(c.trials) if c.trials is not None else "?" for _, c in known)
    return Cell(first, str(known[0][0].value), f"num claimed {kind}", f"trials: {trials}", aside)


def _sources(claims: tuple[tuple[Submission, Claim], ...]) -> Cell:
    text = "; ".join(dict.fromkeys(claim.source for _, claim in claims))
    notes = "; ".join(dict.fromkeys(claim.note for _, claim in claims if claim.note))
    if not text:
        return Cell(fmt.MISSING, "", "text c-source")
    return Cell(text, text, "text claimed c-source", notes)


def explained(boards: tuple[Board, ...]) -> dict[str, str]:
    """Return what the flags raised in some tables mean."""
    raised = {
        flag for board in boards for s in board.standings if s.measured for flag in s.measured.flags
    }
    return {flag: text for flag, text in flags.EXPLANATIONS.items() if flag in raised}
