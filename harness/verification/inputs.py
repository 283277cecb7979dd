"""Whether the data, weights and code behind a run are still those that its study names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.core.errors import UsageError
from harness.core.facts import registered
from harness.core.params import ComponentSpec
from harness.core.protocols import ATTACKS, REGISTRIES
from harness.core.spec import digest
from harness.core.values import Json
from harness.report.collect import Run
from harness.workshop import Workshop

_KINDS = ("dataset", "attack", "defense", "classifier")


def wrong_inputs(run: Run, workshop: Workshop) -> Iterator[str]:
    """Yield a line per digest of ``study.json`` that what is here now does not have.

    Args:
        run: What was read; its records hold every component with its parameters.
        workshop: Reads data and weights.
    """
    for name, spec in _components(run).items():
        said = run.study.inputs.get(name)
        if said is None:
            continue
        try:
            found = _digests(workshop, name.split(" ")[0], spec)
        except (UsageError, OSError) as error:
            yield f"{name}: cannot be read now: {error}"
            continue
        if said not in found:
            yield f"{name}: changed since the run: its code, its data or its weights"
    yield from _wrong_facts(run)


def _wrong_facts(run: Run) -> Iterator[str]:
    """Yield a line per component that decides otherwise than the study file says of it.

    Its first line may be worded anew; whether it is an oracle decides over credit.
    """
    for (role, name), said in run.study.facts.said.items():
        now = registered(role, name)
        if now.summary and replace(said, summary="") != replace(now, summary=""):
            yield f"{role} {name}: study.json says {said}, its code here says {now}"


def _components(run: Run) -> dict[str, ComponentSpec]:
    """Return the components of all trials by the names that ``study.json`` gives them."""
    return {
        f"{kind} {getattr(trial, kind)}": ComponentSpec.from_json(trial.record.spec[kind])
        for trial in run.trials
        for kind in _KINDS
    }


def _digests(workshop: Workshop, kind: str, spec: ComponentSpec) -> list[str]:
    """Return the digest of a component; of an attack with a target, also of it without.

    Where the study's targets filled it, the study's own words, of which the digest is, leave it
    open.
    """
    if kind == "dataset":
        data = workshop.dataset(spec)
        parts: list[Json] = [data.train.digest, data.test.digest]
        return [digest(parts)]
    entry = REGISTRIES[kind].get(spec.name)
    forms = [spec]
    if kind == "attack" and (field := ATTACKS.get(spec.name).factory.target_field):
        open_params = {name: value for name, value in spec.params.items() if name != field}
        forms.append(ComponentSpec(spec.name, open_params))
    return [digest(workshop.component_identity(entry, form)) for form in forms]
