"""What several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster.environment import prepare
from harness.cluster.session import session
from harness.core.device import use_threads

# As every worker of the program: one thread. Two that share a core with a test's subprocesses are
# several times slower than one.
use_threads(1)
prepare(local=True)  # before any test imports ray, which reads it then


# Files that take longest, most of them for few tests. Begun last, one would run alone while the
# other processes have nothing left to do.
LONG = (
    "test_effects", "test_search", "test_benchmarks", "test_craft_on_ray", "test_study_on_ray",
    "test_purify", "test_status", "test_defense_effects", "test_tracking", "test_conformance",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files that take long begin first."""
    first = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray of two CPUs for all tests: it takes seconds to start."""
    checkout = str(Path(__file__).resolve().parents[1])
    with pytest.MonkeyPatch.context() as patch:
        # Workers do not see the path of this process, and import functions of the tests by name.
        patch.setenv("PYTHONPATH", checkout, prepend=os.pathsep)
        with session(cpus=2):
            yield


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Take Ctrl-C as a person's shell would: jobs in the background are started deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images and published tables: ``data/``, ``reference/``."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("PUREGEN_BENCH_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is no folder; set PUREGEN_BENCH_SHARED to one")
    return folder


@pytest.fixture
def torchs_precision() -> None:
    """Convolutions as torch starts: an earlier test may have left them otherwise."""
    import torch

    for kind in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):  # type: ignore[attr-defined]
        kind.fp32_precision = "tf32"
