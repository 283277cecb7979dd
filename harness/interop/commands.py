"""What ``import-poisons``, ``lint-poisons`` and ``export-poisons`` do, as lines to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Dataset, ImageSet
from harness.core.errors import DataError, UsageError
from harness.core.files import file_digest, write_arrays, write_text
from harness.core.params import complete_dataset
from harness.core.paths import check_writable
from harness.core.yaml_text import read_yaml
from harness.interop.assemble import Choices, assemble
from harness.interop.export import export
from harness.interop.foreign import Foreign
from harness.interop.formats import Format, parts
from harness.interop.isolated import read_isolated
from harness.interop.limits import Limits
from harness.interop.lint import Finding, lint
from harness.interop.matching import same_rows
from harness.interop.poison_set import (
    UNKNOWN,
    PoisonSet,
    is_poison_set,
    no_set,
    read_meta,
    read_poison_set,
    write_poison_set,
)


def load_dataset(text: str | None) -> tuple[Dataset | None, str]:
    """Return a dataset given as on the command line, and its name; None for none.

    Args:
        text: Name, or YAML mapping as in a study.
    """
    if text is None:
        return None, ""
    from harness.artifacts import Store
    from harness.core.paths import store_dir
    from harness.workshop import Workshop

    spec = complete_dataset(read_yaml(text, "--dataset"), "--dataset")
    return Workshop(Store(store_dir()), "cpu").dataset(spec), spec.name


def import_poisons(
    source: Path,
    out: Path,
    dataset: str | None = None,
    form: str = "auto",
    companion: Path | None = None,
    choices: Choices | None = None,
    limits: Limits | None = None,
) -> tuple[list[str], int]:
    """Read published poisons and write them in the project's own form, with the linter's findings.

    A folder of numbered folders or files, one per target or class, gives numbered sets.

    Args:
        source: File or folder.
        out: Folder to write (for setups: a ``.json`` file).
        dataset: Name or YAML mapping of the dataset that they are for.
        form: One of :data:`formats.FORMATS`, or ``auto``.
        companion: For ``bullseye`` the file of the split, for ``ntga`` that of the labels, for
            ``puregen_purified`` the imported set before purification (its target and trigger).
        choices: What the file does not say.
        limits: What reading may cost.

    Returns:
        Lines to show, and the number of errors that the linter finds in what was written.

    Raises:
        DataError: If a file is refused; nothing of it is run.
    """
    if is_poison_set(source):
        raise DataError(f"{str(source)!r} is a set of poisons of the project's own form already.")
    # Setups are one file, if its name says so.
    check_writable(out.parent if out.suffix == ".json" else out, "--out")
    data, name = load_dataset(dataset)
    given = choices or Choices()
    given = Choices(**{**_fields(given), "dataset": given.dataset or name})
    lines, errors = [], 0
    for number, path, found_form in parts(source, form):
        target = out if number is None else out / str(number)
        shown, wrong = _import_one(path, target, found_form, data, companion, number, given, limits)
        lines += shown
        errors += wrong
    if errors:
        lines.append(f"errors: {errors}; what was written fails its checks, and studies refuse it.")
    return lines, errors


def _fields(choices: Choices) -> dict[str, Any]:
    return {name: getattr(choices, name) for name in Choices.__dataclass_fields__}


def _import_one(
    path: Path,
    out: Path,
    form: Format,
    data: Dataset | None,
    companion: Path | None,
    number: int | None,
    choices: Choices,
    limits: Limits | None,
) -> tuple[list[str], int]:
    like = _like(companion, number) if form.name == "puregen_purified" else None
    foreign = read_isolated(path, form.name, None if like else companion, limits)
    if foreign.facts.get("kind") == "setups":
        return _write_setups(foreign, path, out), 0
    if foreign.facts.get("kind") == "split":
        return _write_split(foreign, path, out, data.train if data else None), 0
    train, test = (data.train, data.test) if data else (None, None)
    poisons = assemble(
        foreign, choices, train, like=like, source=path.name, source_sha256=file_digest(path)
    )
    _check_target(out, poisons)
    write_poison_set(out, poisons)
    findings = lint(poisons, train, test)
    lines = [f"{out}: {describe(poisons)} ({form.name})", *_shown(findings)]
    return lines, _errors(findings)


def _check_target(out: Path, poisons: PoisonSet) -> None:
    """Check that nothing is lost: a set is replaced by one that was read from the same files."""
    if is_poison_set(out):
        before = read_meta(out)  # its poisons may be damaged, or of a call that was killed
        if before.get("source_sha256") != poisons.meta.source_sha256:
            named = before.get("source") or "unknown"
            raise UsageError(
                f"{str(out)!r} holds poisons of another source ({named}); give a new folder."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{str(out)!r} is a file, or holds other files; give a new folder.")


def _like(companion: Path | None, number: int | None) -> PoisonSet | None:
    if companion is None:
        return None
    numbered = companion / str(number)
    return read_poison_set(numbered if is_poison_set(numbered) else companion)


def describe(poisons: PoisonSet) -> str:
    """Return one line on a set.

    >>> from harness.interop.poison_set import Meta
    >>> images = np.zeros((2, 3, 4, 4), np.uint8)
    >>> describe(PoisonSet(images, np.ones(2, np.int64), np.arange(2), Meta(goal="availability")))
    '2 poisons of 3x4x4, availability, clean-label, no bound'
    """
    meta = poisons.meta
    bound = "no bound" if meta.eps_255 is None else f"eps {meta.eps_255:g}/255"
    aim = "" if meta.adv_label is None else f" to label {meta.adv_label}"
    kind = "clean-label" if meta.clean_label else "dirty-label"
    shape = "x".join(map(str, poisons.images.shape[1:]))
    return f"{len(poisons)} poisons of {shape}, {meta.goal}{aim}, {kind}, {bound}"


def _errors(findings: list[Finding]) -> int:
    return sum(finding.level == "error" for finding in findings)


def _shown(findings: list[Finding]) -> list[str]:
    return [f"  {finding}" for finding in findings]


def _write_setups(foreign: Foreign, source: Path, out: Path) -> list[str]:
    """Write setups as the JSON that triggerless attacks read (``attacks/_setups.py``)."""
    arrays = foreign.arrays
    ends = np.cumsum(arrays["base_counts"])
    bases = np.split(arrays["base_indices"], ends[:-1])
    columns = (arrays[key].tolist() for key in ("target_class", "target_index", "base_class"))
    setups = [
        {"true_label": true, "target_row": row, "adv_label": wanted, "base_rows": rows.tolist()}
        for true, row, wanted, rows in zip(*columns, bases, strict=True)
    ]
    path = out if out.suffix == ".json" else out / f"{source.stem}.json"
    write_text(path, json.dumps(setups) + "\n")
    return [f"{path}: {len(setups)} setups (toxic_setups)"]


def _write_split(foreign: Foreign, source: Path, out: Path, train: ImageSet | None) -> list[str]:
    """Write each part of a split as an ``.npz`` for the dataset source of that name."""
    lines = []
    for part in ("clean_train", "others"):
        images = foreign.arrays[f"{part}_images"]
        arrays: dict[str, NDArray[Any]] = {
            "images": np.ascontiguousarray(images.transpose(0, 2, 3, 1)),
            "labels": foreign.arrays[f"{part}_labels"],
        }
        text = f"{out / part}.npz: {len(images)} images (bullseye_split)"
        if train is not None:
            rows = same_rows(images, train.images)
            arrays["train_ids"] = np.where(rows == UNKNOWN, UNKNOWN, train.ids[rows])
            text += f", {int(np.sum(rows != UNKNOWN))} of them in the training set"
        write_arrays(out / f"{part}.npz", arrays)
        lines.append(text)
    return lines


def _sets(folder: Path) -> list[Path]:
    if is_poison_set(folder):
        return [folder]
    inside = [p for p in folder.iterdir() if is_poison_set(p)] if folder.is_dir() else []
    if not inside:
        raise DataError(no_set(folder))
    return sorted(inside, key=lambda p: (not p.name.isdecimal(), p.name.zfill(9)))


def lint_poisons(folder: Path, dataset: str | None = None) -> tuple[list[str], int]:
    """Check a set, or numbered sets, against a dataset.

    Args:
        folder: A set, or a folder of sets.
        dataset: Name or YAML mapping of a dataset; None leaves out what needs one.

    Returns:
        Lines to show, and the number of errors.
    """
    data, _ = load_dataset(dataset)
    lines, errors = [], 0
    for path in _sets(folder):
        poisons = read_poison_set(path)
        findings = lint(poisons, data.train if data else None, data.test if data else None)
        errors += _errors(findings)
        lines += [f"{path}: {describe(poisons)}", *_shown(findings)]
    return [*lines, f"errors: {errors}"], errors


def export_poisons(folder: Path, out: Path, form: str) -> list[str]:
    """Write a set, or numbered sets, in another tool's format.

    Args:
        folder: A set, or a folder of sets.
        out: Folder to write.
        form: One of :data:`export.WRITERS`.
    """
    check_writable(out, "--out")
    lines = []
    for path in _sets(folder):
        target = out if path == folder else out / path.name
        poisons = read_poison_set(path)
        files = export(poisons, target, form)
        names = ", ".join(file.name for file in files[:4]) + (", …" if len(files) > 4 else "")
        lines.append(f"{target}: {len(files)} files ({names})")
        if not poisons.meta.clean_label:
            text = f"format {form!r} does not say that labels were changed; those of the data tell."
            lines.append(f"  {Finding('warning', text, 'poisons')}")
    return lines
