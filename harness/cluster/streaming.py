"""Many pieces of work that share networks, as one Ray Data stream; imported once a session is open.

A pool of actors, as many as the cluster has room for, takes one piece each, keeps what it has
loaded, and ends with the stream, so that no idle process holds a GPU's memory. Results come back as
they finish; what waits is a payload, and what lies between is files.

Plain tasks (:mod:`harness.cluster.tasks`) are better for few or tiny pieces. The pool's processes
are started for each stream, and import torch anew, where tasks reuse those of earlier tasks; after
that a piece that does nothing costs 11 ms here and 1 ms there (500 pieces, 2 busy CPUs).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.cluster.tasks import RETRIES, slots
from harness.cluster.worker import begin
from harness.core.values import Json
from harness.execution import Done, Work, attempt
from harness.study import Resources

CALLS = 100_000  # more workers than that have never been seen


def run_stream(
    function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
) -> Iterator[Done]:
    """Yield results in the order in which they finish (see :class:`RayExecutor`)."""
    missing = set(range(len(payloads)))
    if not missing:
        return
    trouble = ""
    book = _open_book()
    try:
        for row in _rows(function, payloads, resources, book):
            index = int(row["index"])
            if index in missing:  # what a lost node had made already may be made again
                missing.remove(index)
                value, error = json.loads(row["returned"])
                yield Done(index, value, error, float(row["seconds"]))
    except (RayError, RuntimeError, OSError) as error:
        trouble = f"{type(error).__name__}: {error}"
    finally:
        ray.kill(book)  # the workers end with it, in the middle of a piece if need be
    for index in sorted(missing):
        yield Done(index, None, trouble or "Ray Data ended without a result of this piece.")


def _rows(
    function: Work, payloads: Sequence[dict[str, Json]], resources: Resources, book: Any
) -> Iterator[dict[str, Any]]:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its import has set another level
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a piece that is lost takes no other with it
    context.execution_no_progress_timeout_s = -1  # one piece may take hours
    size = min(len(payloads), max(1, slots(resources)))
    pieces = [{"index": i, "payload": json.dumps(p)} for i, p in enumerate(payloads)]
    with ray.data.DataContext.current(context):  # of which the stream takes a copy
        # Items are blocks of the driver: no task, which would need a processor, reads them, and no
        # node that is lost takes them along. A block of its own lets each piece go to whoever is
        # free, and in-flight 1 lets none wait behind a long one.
        stream = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map(
            _Worker,  # type: ignore[arg-type]  # a class whose instances are such functions
            fn_constructor_args=(function, resources, book),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=1
            ),
        )
    # Without prefetching, a result is handed on when it is there, not when the next one is.
    tables: Iterator[Any] = iter(
        stream.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    )
    for table in tables:
        yield from table.to_pylist()


class _Worker:
    """One process of the pool. Its process-wide caches keep the networks between pieces."""

    def __init__(self, function: Work, resources: Resources, book: Any) -> None:
        self.function, self.resources, self.book = function, resources, book
        threading.Thread(target=_end_with, args=(book,), daemon=True).start()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        begin(self.resources)
        index = int(row["index"])
        if ray.get(self.book.begin.remote(index)) > RETRIES + 1:
            value, error, seconds = None, f"its process died {RETRIES + 1} times.", 0.0
        else:
            began = time.perf_counter()
            value, error = attempt(self.function, json.loads(row["payload"]))
            seconds = time.perf_counter() - began
        return {"index": index, "returned": json.dumps([value, error]), "seconds": seconds}


class _Book:
    """Outlives workers that die: counts how often each piece was begun, and says when to end.

    Ray Data repeats a piece for ever whose process dies each time.
    """

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    async def begin(self, index: int) -> int:
        """Note that a piece begins, and return how often it has by now."""
        self.begun[index] += 1
        return self.begun[index]

    async def closed(self) -> None:
        """Wait for ever: the call fails when the book is killed."""
        await asyncio.Event().wait()


def _open_book() -> Any:
    here = ray.get_runtime_context().get_node_id()  # where the driver is: lost with it alone
    return (
        ray.remote(_Book)
        .options(
            num_cpus=0,
            max_concurrency=CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote()
    )


def _end_with(book: Any) -> None:
    """End this process when the book is gone: Ray Data would let it finish its piece."""
    while True:
        try:
            ray.get(book.closed.remote())
        except ActorUnavailableError:  # the network had a moment
            time.sleep(1)
        except RayError:
            os._exit(0)
