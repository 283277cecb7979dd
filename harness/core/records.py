"""What a trial leaves behind: one JSON file, which says all that a table or a figure needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core.errors import DataError

SCHEMA = 1
BEST_EPOCH = ("none", "availability")  # goals where the accuracy of every epoch is of interest


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts on one probe: how often the attacker, and how often the truth, prevailed.

    Attributes:
        attack: Id of the attack (its spec's hash) whose probe it is.
        label: The attack's short name for tables, for example ``narcissus eps_255=8``.
        target: The attacked target, for example the adversarial class; None if there is none.
        probe: Name of the probe: ``x1``, ``x2``, ``target``.
        trials: Images in the probe.
        successes: Images given the adversary's label.
        correct: Images given their true label.
    """

    attack: str
    label: str
    target: int | None
    probe: str
    trials: int
    successes: int
    correct: int


@dataclass(frozen=True, slots=True)
class Movement:
    """How far a defense moved the training set.

    Attributes:
        rows_in, rows_out: Rows before and after.
        rows_changed: Rows kept of which a byte changed.
        clean_l2, poison_l2: Mean L2 distance of a row to itself before, in units of [0, 1], over
            the rows the attacker left alone and over those it changed; None without such rows.
        poison_kept: Poisoned rows still there.
        poison_changed: Those of them of which a byte changed; with ``rows_changed`` it says how
            well a defense that changes or drops some rows found the poisons. None in records of
            versions that did not count it.
    """

    rows_in: int
    rows_out: int
    rows_changed: int
    clean_l2: float | None
    poison_l2: float | None
    poison_kept: int
    poison_changed: int | None = None

    @property
    def nothing_moved(self) -> bool:
        """Whether the defense returned the very bytes it was given."""
        return self.rows_changed == 0 and self.rows_in == self.rows_out


@dataclass(frozen=True, slots=True)
class Stage:
    """Cost of one stage.

    Attributes:
        seconds: Wall time.
        peak_mib: Largest memory of the process by the end of the stage.
        reused: Whether its result came from the store, at the seconds recorded there.
        gpu_peak_mib: Largest memory that torch held on the process's GPU during the stage: what
            a share of a GPU has to offer, besides some 0.5 GiB that CUDA takes per process. 0
            without a GPU.
    """

    seconds: float
    peak_mib: float
    reused: bool = False
    gpu_peak_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """Everything one trial measured. Shares are in [0, 1] and derived from the counts.

    Attributes:
        spec: The trial's spec, as JSON.
        spec_id: Its hash.
        status: ``ok`` or ``failed``.
        error: Message and last line of the traceback of a failed trial.
        goal: How the attack's success is counted: ``none``, ``triggered``, ``targeted`` or
            ``availability``.
        test_rows, test_correct: Clean test images, and how many were classified right.
        class_rows, class_correct: The same per class.
        outcomes: Counts per probe. A trial without an attack has those of every attack of the
            study: the floor that a clean model reaches.
        poisons: Rows the attacker changed.
        train_rows: Rows of the training set before the defense.
        movement: What the defense did.
        hooks: Hooks that the defense had in the training.
        curves: One list per name (``loss``, ``test_accuracy``, ``rows``), one value per epoch;
            shares are of some of the images, but for ``test_accuracy`` under a goal of
            :data:`BEST_EPOCH`.
        details: Plain numbers that the attack noted.
        stages: Cost per stage: ``poison``, ``purify``, ``train``, ``evaluate``.
        environment: Versions, commit, processor, device, threads, precision.
        partial: Whether the study ran under a limit.
        labels: Short names for tables: ``dataset``, ``attack``, ``defense``, ``classifier``, each
            the component's name with the parameters in which its namesakes in the study differ.
        class_names: Names of the classes of the dataset.
        unjudged: Of a trial without an attack, the attacks (see :func:`harness.core.spec.floor_id`)
            whose poisons could not be made, so that it is no floor of theirs. With them made, it
            runs again.
    """

    spec: dict[str, Any]
    spec_id: str
    status: str = "ok"
    error: str = ""
    goal: str = "none"
    test_rows: int = 0
    test_correct: int = 0
    class_rows: tuple[int, ...] = ()
    class_correct: tuple[int, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    poisons: int = 0
    train_rows: int = 0
    movement: Movement | None = None
    hooks: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    partial: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def natural_accuracy(self) -> float:
        """Share of clean test images classified right; nan for a failed trial."""
        return self.test_correct / self.test_rows if self.test_rows else float("nan")

    @property
    def best_accuracy(self) -> float | None:
        """Natural accuracy after the best epoch, chosen on the test set itself.

        What stopping in time could win back from an availability attack, at most; never a score.
        None under any other attack: there curves look at some of the test images only.
        """
        if self.goal not in BEST_EPOCH:
            return None
        best: float = max([self.natural_accuracy, *self.curves.get("test_accuracy", ())])
        return best

    def with_values(self, **values: Any) -> TrialRecord:
        """Return the record with some values replaced."""
        return replace(self, **values)

    def to_json(self) -> str:
        """Return the record as JSON text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "record") -> TrialRecord:
        """Read a record.

        Raises:
            DataError: If the text is no record of this schema.
        """
        try:
            raw = json.loads(text)
            if raw.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            return cls(**_typed(raw))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{where} is no record of schema {SCHEMA}: {error}") from error

    @classmethod
    def read(cls, path: Path) -> TrialRecord:
        """Read a record from a file (see :meth:`from_json`)."""
        try:
            return cls.from_json(path.read_text(), str(path))
        except OSError as error:
            raise DataError(f"{str(path)!r} cannot be read: {error}") from error


def _typed(raw: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(raw)
    values["outcomes"] = tuple(Outcome(**o) for o in raw["outcomes"])
    values["movement"] = Movement(**raw["movement"]) if raw["movement"] else None
    values["stages"] = {k: Stage(**v) for k, v in raw["stages"].items()}
    for name in ("class_rows", "class_correct", "class_names", "unjudged"):
        values[name] = tuple(raw.get(name, ()))
    return values
