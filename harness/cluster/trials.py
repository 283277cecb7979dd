"""The trials of a study as one Ray Tune run; imported once a session has been opened."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from harness.cluster.worker import begin
from harness.core.values import Json
from harness.execution import Done, Work, attempt
from harness.study import Resources

RETRIES = 1  # of a trial whose process or node died; what it raises itself is final


def run_trials(
    function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
) -> Iterator[Done]:
    """Yield results in the order in which they finish (see :class:`RayExecutor`).

    Tune runs in a thread, so that this one can hand results on as they come, and gets Ctrl-C.
    """
    missing = set(range(len(payloads)))
    if not missing:
        return
    feed = _Feed()
    with tempfile.TemporaryDirectory(prefix="puregen-bench-") as folder:
        tuner = _tuner(function, payloads, resources, feed, folder)
        thread = threading.Thread(target=feed.watch, args=(tuner,), name="tune", daemon=True)
        thread.start()
        try:
            while (done := feed.queue.get()) is not None:
                if done.index in missing:  # a node that dies late makes Tune repeat a trial
                    missing.remove(done.index)
                    yield done
        except KeyboardInterrupt:
            yield from (d for d in feed.rest() if d.index in missing)
            raise
        finally:
            feed.stop.set()
            thread.join()
    for index in sorted(missing):
        yield Done(index, None, feed.error or "Ray Tune ended without a result of this trial.")


class _Feed(tune.Callback, tune.Stopper):
    """What Tune tells of its trials, as they finish, and the way to make it stop.

    Attributes:
        queue: Results, and None when Tune has ended.
        stop: Set to end the run.
        error: Why Tune itself gave up, if it did.
    """

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Done | None] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.actors: dict[str, Any] = {}
        self.error = ""

    def __reduce__(self) -> tuple[type[_Feed], tuple[()]]:
        """Tune pickles its settings, for a restore that never happens."""
        return type(self), ()

    def rest(self) -> list[Done]:
        """Take what has finished and has not been handed on."""
        taken = [self.queue.get() for _ in range(self.queue.qsize())]
        return [done for done in taken if done is not None]

    def watch(self, tuner: tune.Tuner) -> None:
        """Run Tune to its end."""
        try:
            tuner.fit()
        except (TuneError, RayError, RuntimeError, OSError) as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.queue.put(None)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Let every trial run to its end."""
        return False

    def stop_all(self) -> bool:
        """Whether to end the run."""
        return self.stop.is_set()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Note who runs the trial."""
        self.actors[trial.trial_id] = trial.temporary_state.ray_actor

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Take the result out, so that Tune does not keep it, and write it to disk, as well."""
        value, error = json.loads(result.pop("returned"))
        self.queue.put(Done(trial.config["index"], value, error, result["seconds"]))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Note a trial whose process died once too often."""
        told = Path(trial.error_file).read_text() if trial.error_file else ""
        last = told.rpartition("Failure # ")[2].splitlines()[1:2]
        error = " ".join([f"its process died {RETRIES + 1} times.", *last])
        self.queue.put(Done(trial.config["index"], None, f"{error}\n{told}"))

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Kill what runs once Tune has been told to stop; it would wait ten seconds for it."""
        if self.stop.is_set():
            for actor in self.actors.values():
                ray.kill(actor)
            self.actors.clear()


def _tuner(
    function: Work,
    payloads: Sequence[dict[str, Json]],
    resources: Resources,
    feed: _Feed,
    folder: str,
) -> tune.Tuner:
    run = tune.with_parameters(
        _trial, function=function, payloads=list(payloads), resources=resources
    )
    return tune.Tuner(
        tune.with_resources(run, {"cpu": resources.cpus, "gpu": resources.gpus}),
        param_space={"index": tune.grid_search(list(range(len(payloads))))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=folder,
            verbose=0,
            callbacks=[feed],
            stop=feed,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )


def _trial(
    config: dict[str, int],
    function: Work,
    payloads: list[dict[str, Json]],
    resources: Resources,
) -> None:
    begin(resources)
    began = time.perf_counter()
    value, error = attempt(function, payloads[config["index"]])
    seconds = time.perf_counter() - began
    # Seconds stand apart: Tune prints a line about a trial of which it has nothing to report.
    tune.report({"returned": json.dumps([value, error]), "seconds": seconds})
