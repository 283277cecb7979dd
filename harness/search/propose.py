"""Which configurations to try next, from what has been measured: pure functions of both."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UsageError
from harness.core.seeds import stream
from harness.search.section import Search
from harness.search.space import Dimension, Values

REDRAWS = 200  # until a space is taken for used up
STARTUP = 10  # configurations drawn at random before a model is fitted, as optuna has it


@dataclass(frozen=True, slots=True)
class Tried:
    """A configuration that was tried.

    Attributes:
        values: Its values.
        numbers: What it measured of each aim, lower is better; None if a trial failed.
        violations: By how much it misses each bound.
        trials: How many trials that was measured on.
        whole: Whether these are all.
    """

    values: Values
    numbers: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()
    trials: int = 0
    whole: bool = True


def check_algorithm(search: Search) -> None:
    """Check that what the search needs is installed.

    Raises:
        UsageError: If it is not.
    """
    if search.algorithm == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "search.algorithm optuna needs the package optuna: install puregen-bench[search], or "
            "take random."
        )


def propose(search: Search, tried: Sequence[Tried], count: int) -> list[Values]:
    """Return up to ``count`` configurations that have not been tried; fewer if there are no more.

    The same search and the same results give the same proposals: nothing is kept in between.
    """
    seen = [one.values for one in tried]
    found: list[Values] = []
    drafts = _optuna(search, tried, count) if search.algorithm == "optuna" else []
    if search.algorithm == "grid":
        return _grid(search.space, seen)[:count]
    for place in range(count):
        values = drafts[place] if drafts else None
        rng = stream(search.seed, "search", str(len(tried) + place))
        for _ in range(REDRAWS):
            if values is not None and values not in (*seen, *found):
                found.append(values)
                break
            values = {d.name: d.draw(rng) for d in search.space}
    return found


def _grid(space: Sequence[Dimension], seen: Sequence[Values]) -> list[Values]:
    names = [d.name for d in space]
    every = itertools.product(*(d.values for d in space))
    found = (dict(zip(names, values, strict=True)) for values in every)
    return [values for values in found if values not in seen]


def _optuna(search: Search, tried: Sequence[Tried], count: int) -> list[Values]:
    """Ask a tree-structured Parzen estimator that is told everything anew.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; bounds as
    constraints, and those that run as bad ones (constant liar), as optuna has it.
    """
    optuna: Any = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dists = {d.name: _distribution(optuna, d) for d in search.space}
    seed = int(stream(search.seed, "search", "optuna", str(len(tried))).integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # What stands in for constraints_func, which goes in 7.0, is not there before 5.0.
        warnings.filterwarnings("ignore", ".*constraints_func", FutureWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP,
            constraints_func=(lambda t: t.user_attrs["violations"])
            if search.objective.keeps else None,
        )  # fmt: skip
        study = optuna.create_study(
            directions=["minimize"] * len(search.objective.aims), sampler=sampler
        )
        for one in tried:
            study.enqueue_trial({d.name: _encode(d, one.values[d.name]) for d in search.space})
            _tell(optuna, study, study.ask(dists), one)
        asked = [study.ask(dists).params for _ in range(count)]
    return [{d.name: _decode(d, params[d.name]) for d in search.space} for params in asked]


def _tell(optuna: Any, study: Any, trial: Any, one: Tried) -> None:
    trial.set_user_attr("violations", [float(v) for v in one.violations])
    states = optuna.trial.TrialState
    if one.numbers is None:
        study.tell(trial, state=states.FAIL)
    elif one.whole:
        study.tell(trial, list(one.numbers))
    else:
        trial.report(one.numbers[0], step=one.trials)
        study.tell(trial, state=states.PRUNED)


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    kinds, d = optuna.distributions, dimension
    if d.kind == "choice":
        return kinds.CategoricalDistribution(range(len(d.values)))
    if d.kind == "grid":
        return kinds.IntDistribution(0, len(d.values) - 1)
    if d.kind == "int":
        return kinds.IntDistribution(int(d.low), int(d.high), log=d.log)
    return kinds.FloatDistribution(d.low, d.high, log=d.log)


def _encode(dimension: Dimension, value: Any) -> Any:
    return dimension.values.index(value) if dimension.values else value


def _decode(dimension: Dimension, param: Any) -> Any:
    return dimension.values[param] if dimension.values else dimension.rounded(param)
