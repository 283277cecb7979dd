"""Components in a fresh interpreter: what they load, and whether a seed makes the same there.

In one interpreter the hash of a text, and with it the order of a set, is always the same; the nodes
of a cluster are others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.artifacts import Store
from harness.catalogue import registry_of
from harness.conformance_outcomes import outcome
from harness.conformance_rules import Violation, require
from harness.core.device import use_threads
from harness.core.errors import UsageError
from harness.core.values import Json
from harness.workshop import Workshop

HEAVY = ("ray", "mlflow")


@dataclass
class Fresh:
    """A fresh interpreter that is at work.

    Attributes:
        process: The interpreter.
        folder: Where it writes ``told`` and ``stderr``.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    _told: dict[str, Json] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Json]:
        """What it loaded and made; waits for it.

        Raises:
            Violation: If it failed.
        """
        if not self._told:
            if self.process.wait() or not (self.folder / "told").exists():
                *_, last = (self.folder / "stderr").read_text().splitlines() or ["it ended"]
                raise Violation(f"fails in a fresh interpreter: {last}")
            self._told = json.loads((self.folder / "told").read_text())
        return self._told

    def loads_alone(self) -> str:
        """Check that its components load neither ray nor mlflow."""
        loaded = self.told["loaded"]
        said = f": it loads {' and '.join(loaded)}" if loaded else ""
        return require(not loaded, f"it loads without ray and mlflow{said}")

    def makes(self, kind: str, name: str, made: str) -> str:
        """Check that a component made there what it made here."""
        rule = "the same seed, the same bytes in another interpreter"
        there = self.told["made"][f"{kind} {name}"]
        failed = f" ({there})" if there.startswith("it ") else ""
        return require(there == made, f"{rule}{failed}")


@contextmanager
def fresh_interpreter(components: Sequence[tuple[str, str]]) -> Iterator[Fresh]:
    """Start a fresh interpreter that runs components, by kind and name; it ends with the block."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    with tempfile.TemporaryDirectory() as folder:
        # The path as it is here, also where components come from that are not installed.
        code = (
            f"import json, sys; sys.path[:] = json.loads({json.dumps(sys.path)!r}); "
            "from harness.conformance_fresh import tell; "
            f"tell(json.loads({json.dumps(list(components))!r}), {folder!r})"
        )
        with (Path(folder) / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=stderr, env=environment,
            )  # fmt: skip
        try:
            yield Fresh(process, Path(folder))
        finally:
            process.kill()
            process.wait()


def tell(components: Sequence[tuple[str, str]], folder: str) -> None:
    """Write down what components load and make in this interpreter."""
    use_threads(1)
    entries = [(registry_of(kind), name) for kind, name in components]
    found = [(registry, registry.get(name)) for registry, name in entries]
    loaded = [module for module in HEAVY if module in sys.modules]
    made: dict[str, Json] = {}
    workshop = Workshop(Store(Path(folder) / "store"), "cpu")
    for registry, entry in found:
        try:
            made[f"{registry.kind} {entry.name}"] = outcome(registry, entry, workshop)
        except UsageError as error:
            made[f"{registry.kind} {entry.name}"] = f"it {error}"
    (Path(folder) / "told").write_text(json.dumps({"loaded": loaded, "made": made}))
