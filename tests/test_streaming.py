"""Ray Data as an executor: the bytes, the faults, and what its workers keep."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generative.checkpoints import save_ebm
from generative.ebm import EBM, EBMConfig
from harness.cluster.executor import RayExecutor
from harness.core.files import read_arrays
from harness.core.params import complete
from harness.core.protocols import DEFENSES
from harness.craft import craft_study
from harness.execution import Done, InProcess
from harness.progress import Progress
from harness.purify.job import CHUNK, Job, run_job
from harness.study import Resources, read_study
from tests.cluster_functions import misbehave, square
from tests.stream_functions import purify_noting
from tests.test_cluster import ONE, TWO, check_troubles, troubles, values
from tests.tiny import workshop, write_study

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]
CHUNKS = 6


def stream(function: Any, payloads: Sequence[dict[str, Any]], resources: Resources) -> list[Done]:
    from harness.cluster.streaming import run_stream

    return list(run_stream(function, payloads, resources))


def test_few_pieces_and_many_give_the_same() -> None:
    for count in (0, 3, 20):  # as tasks, and through Ray Data
        payloads = [{"x": x} for x in range(count)]
        expected = values(list(InProcess().units(square, payloads, ONE)))
        assert values(list(RayExecutor().stream(square, payloads, ONE))) == expected


def test_a_piece_that_fails_takes_no_other_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_troubles(stream(misbehave, troubles(tmp_path), ONE))
    out, err = capfd.readouterr()
    # Ray's own core warns of each pool, before any logger of Python.
    lines = (out + err).splitlines()
    assert [line for line in lines if "(raylet)" not in line and "core_worker.cc" not in line] == []


def test_an_interrupted_stream_hands_on_what_is_done_and_frees_the_processors() -> None:
    from harness.cluster.streaming import run_stream

    payloads = [{"do": "nothing"}, *[{"do": "sleep"}] * 4]
    results: list[Done] = []
    with pytest.raises(KeyboardInterrupt):
        for done in run_stream(misbehave, payloads, ONE):
            results.append(done)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert [d.index for d in results] == [0]
    assert len(list(RayExecutor().units(square, [{"x": 1}], TWO))) == 1


class Noting(InProcess):
    """Streams chunks through Ray Data, by workers that note what they do in a folder."""

    def __init__(self, folder: Path, resources: Resources) -> None:
        self.folder, self.resources = folder, resources
        folder.mkdir()

    def stream(self, function: Any, payloads: Any, resources: Resources) -> Iterator[Done]:
        told = [{**payload, "notes": str(self.folder)} for payload in payloads]
        return iter(stream(purify_noting, told, self.resources))

    def order(self, start: int, order: str) -> None:
        (self.folder / f"chunk {start}").write_text(order)

    def noted(self) -> Counter[str]:
        return Counter((self.folder / "log").read_text().splitlines())


def made(noted: Counter[str]) -> dict[int, int]:
    return {int(what.split()[1]): n for what, n in noted.items() if what.startswith("made")}


def test_chunks_of_a_purification(tmp_path: Path) -> None:
    """Equal bytes by one worker and two; one is killed, a chunk fails, none is made twice."""
    shop = workshop(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (CHUNKS * CHUNK, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", images=images)
    torch.manual_seed(0)
    save_ebm(tmp_path / "ebm", EBM(EBMConfig(nf=8)), {})
    raw = {"name": "puregen_ebm", "steps": 2, "ebm": {"path": str(tmp_path / "ebm")}}
    defense = complete(DEFENSES, raw, "x")

    def purify(out: str, executor: Any) -> Any:
        job = Job(tmp_path / "in.npz", tmp_path / out, defense)
        return run_job(job, shop, lambda: nullcontext(executor), Progress.silent())

    assert purify("alone.npz", InProcess())["images"] == len(images)
    one = Noting(tmp_path / "one", TWO)  # a worker of two processors: there are no more
    assert purify("one.npz", one)["images"] == len(images)
    starts = range(0, len(images), CHUNK)
    assert made(one.noted()) == dict.fromkeys(starts, 1)
    assert sum(n for what, n in one.noted().items() if what.startswith("read")) == 1

    two = Noting(tmp_path / "two", ONE)
    two.order(2 * CHUNK, "die")
    two.order(4 * CHUNK, "fail")
    failed = purify("two.npz", two)
    assert failed == [f"ValueError: chunk {4 * CHUNK} was told to fail"]
    assert made(two.noted()) == dict.fromkeys(set(starts) - {4 * CHUNK}, 1)
    assert (two.folder / f"chunk {2 * CHUNK}.taken").exists()
    reads = [n for what, n in two.noted().items() if what.startswith("read")]
    assert set(reads) == {1}  # each process once
    assert len(reads) <= 3  # two, and the one that replaced the dead one
    assert purify("two.npz", InProcess())["images"] == len(images)
    with (
        np.load(tmp_path / "alone.npz") as a,
        np.load(tmp_path / "one.npz") as b,
        np.load(tmp_path / "two.npz") as c,
    ):
        np.testing.assert_array_equal(a["images"], b["images"])
        np.testing.assert_array_equal(a["images"], c["images"])
        assert not np.array_equal(a["images"], images)


def test_poisons_of_many_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than eight per processor go through Ray Data, to the same bytes."""
    from harness.cluster import streaming

    streamed, run_stream = list[int](), streaming.run_stream

    def noted(function: Any, payloads: Sequence[dict[str, Any]], resources: Resources) -> Any:
        streamed.append(len(payloads))
        return run_stream(function, payloads, resources)

    monkeypatch.setattr(streaming, "run_stream", noted)
    attacks = [{"name": "badnets", "budget": 0.2}, {"name": "blended", "budget": 0.2}]
    study = read_study(write_study(tmp_path, attacks=attacks, targets=list(range(10))))
    found = []
    for name, executor in (("here", InProcess()), ("streamed", RayExecutor())):
        shop = workshop(tmp_path / name)
        crafted, errors = craft_study(
            study, shop, lambda executor=executor: nullcontext(executor), Progress.silent(), None
        )
        assert errors == [] and len(crafted) == 20
        paths = sorted((tmp_path / name / "store" / "poison").glob("*/poison.npz"))
        found.append({path.parent.name: read_arrays(path) for path in paths})
    assert streamed == [20]
    here, there = found
    assert here.keys() == there.keys() and len(here) == 20
    for key, arrays in here.items():
        for array, values_there in zip(arrays.values(), there[key].values(), strict=True):
            np.testing.assert_array_equal(array, values_there)
