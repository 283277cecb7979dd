"""Short names for tables: a component's name, and what tells it from its namesakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from harness.core.params import ComponentSpec
from harness.core.protocols import ATTACKS
from harness.core.spec import TrialSpec, attack_id, digest
from harness.core.values import Json


def labels_of(group: Sequence[ComponentSpec]) -> dict[str, str]:
    """Return one label per component of a kind, by the hash of its spec; no two are alike."""
    ids = [digest(spec.to_json()) for spec in group]
    texts = [_label(spec, [s for s in group if s.name == spec.name]) for spec in group]
    texts = [
        _closer(text, spec, [s for s, other in zip(group, texts, strict=True) if other == text])
        for text, spec in zip(texts, group, strict=True)
    ]
    alike = Counter(texts)
    return {
        key: text if alike[text] == 1 else f"{text} #{key[:6]}"
        for key, text in zip(ids, texts, strict=True)
    }


def _label(spec: ComponentSpec, namesakes: Sequence[ComponentSpec]) -> str:
    differing = _differing(spec.params, [s.params for s in namesakes])
    parts = spec.params.get("parts") or []
    made_of = [str(part["name"]) for part in parts] if _same_components(parts, []) else []
    if made_of:  # a chain is known by what it is made of
        differing.pop("parts", None)
        return _with(" + ".join(made_of), differing)
    return _with(spec.name, differing)


def _closer(text: str, spec: ComponentSpec, alike: Sequence[ComponentSpec]) -> str:
    """Return a label with what tells a component from those that have the same label.

    They may differ deep inside where others of the name differ as a whole: two energy networks in
    the data that they learned from, a third one being a file.
    """
    if len(alike) == 1:
        return text
    closer = _with("", _differing(spec.params, [other.params for other in alike]))
    return " ".join([text, *(part for part in closer.split() if part not in text.split())])


def _with(name: str, differing: Mapping[str, Json]) -> str:
    ends = Counter(key.rpartition(".")[2] for key in differing)
    parts = []
    for key, value in differing.items():
        end = key.rpartition(".")[2]
        parts.append(f"{end if ends[end] == 1 else key}={_brief(value)}")
    return " ".join([name, *parts])


def _differing(own: Mapping[str, Json], others: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """Return the parameters, under dotted names, in which some other one differs."""
    found: dict[str, Json] = {}
    for key, value in own.items():
        theirs = [other.get(key) for other in others]
        if all(other == value for other in theirs):
            continue
        if _same_components(value, theirs):  # lists, then, of equal length
            for index, part in enumerate(value):
                inner = _differing(part, [other[index] for other in theirs if other])
                found |= {f"{key}[{index}].{name}": v for name, v in inner.items()}
            continue
        mappings = [other for other in theirs if isinstance(other, Mapping)]
        if isinstance(value, Mapping) and _alike(mappings) and len(mappings) == len(theirs):
            inner = _differing(value, mappings)
            found |= {f"{key}.{name}": part for name, part in inner.items()}
        else:
            found[key] = _told_apart(value, theirs)
    return found


def _told_apart(value: Json, others: Sequence[Json]) -> Json:
    """Return of an absolute path what tells it from others, anything else as it is."""
    if not (isinstance(value, str) and Path(value).is_absolute()):
        return value
    own = Path(value).parts[:0:-1]  # from the name up, without the root
    paths = [Path(o).parts[:0:-1] for o in others if isinstance(o, str) and o != value]
    shared = [len(list(takewhile(_are_one, zip(own, p, strict=False)))) for p in paths]
    first = min([*shared, len(own) - 1])
    return str(Path(*own[first : max([*shared, 0]) + 1][::-1]))


def _are_one(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _same_components(value: Json, others: Sequence[Json]) -> bool:
    """Whether all are lists of components with the same names, one by one."""

    def names(items: Json) -> list[Json] | None:
        listed = isinstance(items, list) and items and all(isinstance(i, Mapping) for i in items)
        return [item.get("name") for item in items] if listed else None

    own = names(value)
    return own is not None and all(names(other) == own for other in others)


def _alike(mappings: Sequence[Mapping[str, Json]]) -> bool:
    """Whether all are of the same component, so that their parts can be compared."""
    return len({mapping.get("name") for mapping in mappings}) == 1


def _brief(value: Json) -> str:
    if isinstance(value, Mapping):
        return str(value["name"]) if "name" in value else _brief(value.get("path", "…"))
    if isinstance(value, list):
        return ",".join(map(_brief, value))
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value  # inside a list
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(spec: ComponentSpec, labels: Mapping[str, str]) -> str:
    """Return the label of a component of a study."""
    return labels.get(digest(spec.to_json()), spec.name)


def attack_label(attack: ComponentSpec, labels: Mapping[str, str]) -> str:
    """Return the label of an attack, without the target that the study gave it."""
    field = ATTACKS.get(attack.name).factory.target_field
    untargeted = {k: v for k, v in attack.params.items() if k != field}
    key = digest(ComponentSpec(attack.name, untargeted).to_json())
    return labels.get(key) or label_of(attack, labels)


def names_of(trial: TrialSpec, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a trial's components, by role."""
    return {
        "dataset": label_of(trial.dataset, labels),
        "attack": attack_label(trial.attack, labels),
        "defense": label_of(trial.defense, labels),
        "classifier": label_of(trial.classifier, labels),
        "scenario": label_of(trial.scenario, labels),
    }


def judged_labels(trial: TrialSpec, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the label of each attack whose probes a trial is tested on, by its id."""
    judged = (trial.attack, *(attack for attack, _ in trial.floors))
    return {attack_id(a): attack_label(a, labels) for a in judged}
