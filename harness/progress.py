"""Progress that a person can read: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Shows stages and what finished in them.

    Args:
        console: Where to write.
        quiet: Write nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._began = time.perf_counter()
        self._stage, self._done, self._total = "", 0, 0
        self._task: TaskID | None = None
        self._bars: Bars | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bars = Bars(*columns, TimeElapsedColumn(), console=console)

    @classmethod
    def silent(cls) -> Progress:
        """Return one that shows nothing."""
        return cls(Console(quiet=True), quiet=True)

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def note(self, text: str) -> None:
        """Show one line."""
        if not self._quiet:
            elapsed = time.perf_counter() - self._began
            self._console.print(f"[{elapsed:6.1f} s] {text}", markup=False, highlight=False)

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of so many pieces."""
        self._stage, self._done, self._total = stage, 0, total
        if self._bars:
            self._task = self._bars.add_task(stage, total=total)

    def advance(self, text: str, seconds: float = 0.0) -> None:
        """Show that one piece of the stage is done."""
        self._done += 1
        if self._bars and self._task is not None:
            self._bars.advance(self._task)
        spent = f" ({seconds:.1f} s)" if seconds else ""
        self.note(f"{self._stage} {self._done}/{self._total}: {text}{spent}")
