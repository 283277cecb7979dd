"""Makes what trials need, each thing once: datasets, trained networks, poisons, purified rows.

What is costly goes into the store, so that another trial, worker or run finds it there; what was
read last stays in this process's memory too. Each file is a layer on the one before: ``networks``,
``poisons``, ``purified``.
"""

from harness.workshop.deferred import Deferred
from harness.workshop.loading import Outline
from harness.workshop.networks import check_generator
from harness.workshop.poisons import best_of
from harness.workshop.purified import Workshop, is_rowwise, purified_wrong

__all__ = [
    "Deferred", "Outline", "Workshop", "best_of", "check_generator", "is_rowwise", "purified_wrong",
]  # fmt: skip
