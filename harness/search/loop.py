"""The search: propose, run, compare, until enough configurations have been tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from harness.core.errors import DataError, UsageError
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec, digest
from harness.core.values import Json
from harness.execution import Executor
from harness.plan import Plan, check_components
from harness.progress import Progress
from harness.run import RecordSink, RunSummary, run_study
from harness.run_control import controlled
from harness.run_folder import check_run, describe_run, open_run
from harness.search import folder
from harness.search.configuration import (
    KEPT,
    Configuration,
    bracket_size,
    case,
    configure,
    grown,
    references,
    rungs,
    search_of,
)
from harness.search.held_out import held_out_study
from harness.search.measured import Measured, means, measure
from harness.search.objective import order
from harness.search.propose import Tried, check_algorithm, propose
from harness.search.section import Search
from harness.search.space import Values
from harness.search.standing import Found, Standing, choose
from harness.study import StudySpec
from harness.study_trials import expand
from harness.trial_runner import TrialRunner
from harness.units import units_of
from harness.work import finished, samples_path
from harness.workshop import Workshop


class Sink(RecordSink, Protocol):
    """Where records go besides the disk, with notes on them."""

    def tag(self, spec_id: str, name: str, value: str) -> None:
        """Note something on a trial that was logged."""
        ...


OpenExecutor = Callable[[], AbstractContextManager[Executor]]
OpenSink = Callable[[], Sink | None]


def run_search(
    study: StudySpec,
    workshop: Workshop,
    run: Path,
    executor: OpenExecutor,
    open_sink: OpenSink = lambda: None,
    *,
    command: str = "",
    progress: Progress | None = None,
) -> Found:
    """Search, or go on with a search that was stopped, and return what was found.

    What is on disk is told to the searcher first: a search that was stopped tries what it would
    have tried.

    Args:
        study: Checked study with a search.
        workshop: Gives access to datasets and store.
        run: Folder; absolute. It becomes a run's folder like any other.
        executor: Opened once there is something to run.
        open_sink: Opened once all is checked: where records go besides the disk.
        command: How to run this again, for the report.
        progress: Where to show what happens.

    Raises:
        UsageError: For anything that cannot be used; nothing has been started by then.
    """
    driver = _Driver(study, workshop, run, command, progress or Progress.silent())
    driver.check()
    with driver.progress, ExitStack() as stack:
        driver.open_executor = lambda: stack.enter_context(executor())
        driver.sink = open_sink()
        with controlled(run):
            return driver.search_all()


@dataclass(slots=True)
class _Driver:
    """One call's work on a search.

    Attributes:
        classes: Of each dataset, by the hash of its spec.
        references: Trials of the other defenses.
        cases: Trials that a configuration is judged by.
        identity: Which search this is.
        brackets: What was proposed, by this call and earlier ones.
        planned: Trials that were asked for so far, by id, in the order of the report.
        configurations: Those proposed so far.
        errors: What failed, and the first line of why.
    """

    study: StudySpec
    workshop: Workshop
    run: Path
    command: str
    progress: Progress
    open_executor: Callable[[], Executor] = field(init=False)
    classes: dict[str, int] = field(default_factory=dict)
    references: tuple[TrialSpec, ...] = ()
    cases: int = 0
    identity: dict[str, Json] = field(default_factory=dict)
    brackets: folder.Brackets = field(default_factory=list)
    planned: dict[str, TrialSpec] = field(default_factory=dict)
    configurations: list[Configuration] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sink: Sink | None = None
    running: Executor | None = None

    @property
    def search(self) -> Search:
        """The study's search."""
        return search_of(self.study)

    def check(self) -> None:
        """Check everything that can be known, the ends of every parameter's range among it."""
        check_algorithm(self.search)
        for spec in self.study.datasets:
            data = self.workshop.dataset(spec)
            if not len(data.test):
                raise DataError(f"dataset {spec.name!r} has no test rows; nothing can be measured.")
            self.classes[digest(spec.to_json())] = data.train.num_classes
        first = {d.name: d.ends[0] for d in self.search.space}
        ends = [{**first, d.name: end} for d in self.search.space for end in d.ends]
        probes = [configure(self.study, 0, values, self.classes) for values in ends]
        self.references = references(self.study, self.classes)
        # One dataset and defense is checked once, however many trials there are of it.
        check_components([*self.references, *(t for p in probes for t in p.trials)], self.workshop)
        cases = probes[0].trials
        self.cases = len(cases)
        _check_cases(self.search, cases, self.references)
        if self.search.report:
            _check_disjoint(held_out_study(self.study, [first]), cases, self.classes)
        base = grown(self.study, probes[:1])
        described = describe_run(base, Plan(self.references, ()), self.workshop, "", partial=False)
        self.identity = folder.identity(self.study, self.references, described["inputs"])
        check_run(
            self.run / "search", described
        )  # no run: what remains is whether it can be written
        self.brackets = folder.read_brackets(self.run, self.identity)

    def search_all(self) -> Found:
        """Run references, brackets and the report."""
        folder.write_brackets(self.run, self.identity, self.brackets)  # whose folder this is
        self._run(self.references)
        standings: list[Standing] = []
        place = 0
        while place < len(self.brackets) or self._propose(standings):
            standings += self._bracket(self.brackets[place])
            place += 1
        chosen, front = choose(self.search, standings)
        found = Found(self.search, tuple(standings), self._undefended(), chosen, front)
        held_out = self._report(chosen) if self.search.report and chosen else None
        if held_out is not None:
            self.errors += held_out.errors
        return replace(
            found, held_out=None if held_out is None else held_out.run, errors=tuple(self.errors)
        )

    def _propose(self, standings: Sequence[Standing]) -> bool:
        """Add a bracket, and say whether there was one to add."""
        tried = [
            Tried(s.configuration.values, s.numbers, s.violations, s.trials, s.whole)
            for s in standings
        ]
        if len(tried) >= self.search.configurations:
            return False
        count = bracket_size(self.search, self.cases, len(tried))
        values = propose(self.search, tried, count)
        if not values:
            self.progress.note(f"the space has no more than {len(tried)} configurations")
            return False
        self.brackets.append(values)
        folder.write_brackets(self.run, self.identity, self.brackets)
        return True

    def _bracket(self, bracket: Sequence[Values]) -> list[Standing]:
        """Run configurations rung by rung, and return where each came to."""
        start = len(self.configurations)
        going = [configure(self.study, start + i, v, self.classes) for i, v in enumerate(bracket)]
        self.configurations += going
        steps = rungs(len(going[0].trials), halving=self.search.halving)
        standings: dict[int, Standing] = {}
        for count in steps:
            last = count == steps[-1]
            shown = f"{len(going)} configurations, {count} of {steps[-1]} trials each"
            self.progress.note(f"configurations {start}–{start + len(bracket) - 1}: {shown}")
            self._run([t for one in going for t in one.trials[:count]], going)
            standings |= {one.number: self._standing(one, count, whole=last) for one in going}
            alive = [one for one in going if standings[one.number].numbers is not None]
            alive.sort(key=lambda one: _order(standings[one.number]))
            going = alive if last else alive[: -(-len(going) // KEPT)]
        self._run([t for one in going for t in one.controls], going)
        return [standings[number] for number in sorted(standings)]

    def _standing(self, one: Configuration, count: int, *, whole: bool) -> Standing:
        records = [finished(self.run, t.spec_id) for t in one.trials[:count]]
        good = [r for r in records if r is not None]
        objective = self.search.objective
        measured = measure(good, objective.shown) if len(good) == count else None
        beside = self._undefended(one.trials[:count])
        if measured is None or (objective.relative and beside is None):
            return Standing(one, count, whole)
        violations = objective.violations(means(measured), means(beside or {}))
        return Standing(one, count, whole, measured, objective.numbers(means(measured)), violations)

    def _undefended(self, trials: Sequence[TrialSpec] | None = None) -> Measured | None:
        """Measure without a defense, on the cases of these trials or on all."""
        twins = {
            case(t): t.spec_id
            for t in self.references
            if t.defense.name == "none" and t.attack.name != "none"
        }
        wanted = twins if trials is None else dict.fromkeys(map(case, trials))
        records = [finished(self.run, twins[key]) for key in wanted if key in twins]
        good: list[TrialRecord] = [r for r in records if r is not None]
        complete = good and len(good) == len(wanted)
        return measure(good, self.search.objective.shown) if complete else None

    def _run(self, trials: Sequence[TrialSpec], tagged: Sequence[Configuration] = ()) -> None:
        """Run what is missing of some trials."""
        numbers = {t.spec_id: str(c.number) for c in tagged for t in (*c.trials, *c.controls)}
        wanted = {t.spec_id: t for t in trials}
        self.planned |= wanted
        there = {i: t for i, t in wanted.items() if finished(self.run, i) is not None}
        missing = [t for i, t in wanted.items() if i not in there]
        study = grown(self.study, self.configurations)
        if missing:
            plan = Plan(tuple(missing), tuple(units_of(missing, self.workshop, study.labels)))
            self._describe(study)
            runner = TrialRunner(
                study, plan, self.workshop, self.run, self._executor(), self.progress, False
            )
            for record in runner.records(missing, self.errors):
                if self.sink is not None:
                    samples = samples_path(self.run, record.spec_id)
                    self.sink.log(record, samples if samples.exists() else None)
        for spec_id, number in numbers.items():
            if self.sink is not None and spec_id in wanted:
                self.sink.tag(spec_id, "search.configuration", number)

    def _describe(self, study: StudySpec) -> None:
        """Write what the run holds by now, so that its report and its check know."""
        plan = Plan(tuple(self.planned.values()), ())
        described = describe_run(study, plan, self.workshop, self.command, partial=False)
        title = f"{study.title} · " if study.title else ""
        described["title"] = f"{title}search: configurations are selected by these very trials"
        open_run(self.run, described)

    def _executor(self) -> Executor:
        if self.running is None:
            self.running = self.open_executor()
            self.workshop.store.check_nodes(self.running, {"run folder": self.run})
        return self.running

    def _report(self, chosen: Sequence[Standing]) -> RunSummary:
        """Run what was chosen on targets and seeds that it was not chosen by."""
        study = held_out_study(self.study, [one.configuration.values for one in chosen])
        place = self.run / f"held_out_{digest(study.raw)[:8]}"
        self.progress.note(f"report on other targets or seeds: {place.name}")

        @contextmanager
        def services(work: bool) -> Iterator[tuple[Executor | None, RecordSink | None]]:
            yield (self._executor() if work else None), self.sink

        return run_study(
            study, self.workshop, place, services, command=self.command, progress=self.progress
        )


def _order(one: Standing) -> tuple[float, tuple[float, ...]]:
    return order(one.numbers or (), one.violations)


def _check_cases(search: Search, cases: Sequence[TrialSpec], others: Sequence[TrialSpec]) -> None:
    if search.halving and len(cases) < 2:
        raise UsageError(
            "search.early_stop halving needs two or more trials per configuration; "
            "give more targets or seeds."
        )
    undefended = {case(t) for t in others if t.defense.name == "none"}
    if search.objective.relative and not undefended.issuperset(map(case, cases)):
        raise UsageError(
            "search.objective.keep compares with undefended trials; leave 'controls' true, or add "
            "none to the defenses."
        )


def _check_disjoint(
    held_out: StudySpec, cases: Sequence[TrialSpec], classes: dict[str, int]
) -> None:
    selected = {case(t) for t in cases}
    for trial in expand(held_out, classes):
        if trial.attack.name != "none" and case(trial) in selected:
            raise UsageError(
                f"search.report: target {trial.target} with poison seed {trial.seeds.poison} and "
                f"victim seed {trial.seeds.victim} is one of those that the search selects by; "
                "give other targets or other seeds."
            )
