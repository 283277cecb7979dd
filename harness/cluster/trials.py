"""The trials of a study as one Ray Tune run; imported once a session has been opened."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray import tune

from harness.core.device import use_threads
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
    feed = _Feed()
    with tempfile.TemporaryDirectory(prefix="puregen-bench-tune-") as folder:
        tuner = _tuner(function, payloads, resources, feed, folder)
        runner = threading.Thread(target=feed.run, args=(tuner,), name="tune", daemon=True)
        try:
            runner.start()
            while missing:
                done = feed.get()
                if done is None:
                    break
                if done.index in missing:
                    missing.remove(done.index)
                    yield done
        except (KeyboardInterrupt, SystemExit):
            yield from feed.rest(missing)
            raise
        finally:
            feed.stopped.set()
            runner.join()
    for index in sorted(missing):
        yield Done(index, None, feed.error)
