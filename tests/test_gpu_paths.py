"""What would run on a GPU keeps its tensors on one device; no number is looked at."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from generative.checkpoints import save_ebm
from generative.ebm import EBM, EBMConfig
from harness.artifacts import Store
from harness.classifiers.hlb_xs import HlbXs
from harness.cli import cli
from harness.cli_options import open_workshop
from harness.cluster import worker
from harness.cluster.worker import begin
from harness.core.device import pick_device
from harness.core.errors import UsageError
from harness.core.params import complete
from harness.core.protocols import DEFENSES
from harness.execution import Done, InProcess
from harness.plan import make_plan
from harness.progress import Progress
from harness.purify.job import CHUNK, Job, run_job
from harness.run import run_study
from harness.study import Resources, read_study
from harness.workshop import Workshop
from tests.pretended_gpu import pretended_gpu
from tests.tiny import write_study

NO_GPU = "device 'cuda' was asked for, and torch finds no GPU; allowed: 'cpu'."


def test_everything_finds_its_tensors_on_the_gpu() -> None:
    # In a process of its own: torch ends it when some fake tensors go at a bad moment.
    command = [sys.executable, "-m", "tests.pretended_gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if not line.startswith("ok ")]
    assert done.returncode == 0, done.stderr
    assert {"ok attack narcissus", "ok defense epic", "ok classifier resnet18"} <= set(lines)
    assert {"ok benchmark whole_jobs", "ok benchmark epic_selection"} <= set(lines)


def test_the_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with pretended_gpu():
        there, here = torch.zeros(3, device="cuda"), torch.zeros(3)
        assert (there + there).device.type == "cuda" and there.cpu().numpy().shape == (3,)
        with pytest.raises(RuntimeError, match="at least two devices"):
            there + here
        with pytest.raises(TypeError, match="numpy cannot read a tensor on cuda"):
            there.numpy()
    assert torch.zeros(2).numpy().shape == (2,)


def test_a_piece_that_was_given_no_gpu_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    begin(Resources(gpus=0.5))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    begin(Resources())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_process_gives_back_what_an_earlier_piece_left_on_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did = list[str]()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: did.append("wait"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: did.append("free"))
    monkeypatch.setattr(worker.os, "_exit", lambda status: did.append(f"exit {status}"))
    begin(Resources(gpus=0.25))
    assert did == ["wait", "free"]

    def broken() -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    did.clear()
    begin(Resources(gpus=0.25))  # CUDA would fail in every later piece of this process
    assert did == ["exit 1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["run", "craft"])
def test_a_head_needs_no_gpu(command: str, tmp_path: Path) -> None:
    def said(*options: str) -> str:
        store = ["--store", str(tmp_path), "--device", "cuda"]
        with pytest.raises(UsageError) as refused:
            CliRunner().invoke(cli, [command, "smoke", *store, *options], catch_exceptions=False)
        return str(refused.value)

    assert "finds no GPU" in said("--in-process")
    assert "give --device cuda and --set resources.gpus=1" in said()  # which its nodes may have
    assert open_workshop(str(tmp_path), "cuda", here=False).device == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_head_that_purifies_needs_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    np.savez(tmp_path / "in.npz", images=np.zeros((4, 8, 8, 3), np.uint8))

    def said(*options: str) -> str:
        files = [str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), "--defense", "jpeg"]
        store = ["--store", str(tmp_path / "store"), "--device", "cuda"]
        with pytest.raises(UsageError) as refused:
            CliRunner().invoke(cli, ["purify", *files, *store, *options], catch_exceptions=False)
        return str(refused.value)

    assert said("--in-process") == said() == NO_GPU  # a Ray of this machine alone
    assert "no Ray answers" in said("--address", "127.0.0.1:9")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_head_without_a_gpu_checks_the_networks_of_a_study(tmp_path: Path) -> None:
    save_ebm(tmp_path / "ebm", EBM(EBMConfig(nf=8)), {})
    weights = HlbXs(widths=(8, 8, 8)).build(10, (3, 32, 32)).state_dict()
    save_file(weights, tmp_path / "victim.safetensors")
    defense = {"name": "puregen_ebm", "ebm": {"path": str(tmp_path / "ebm")}}
    victim = {"name": "hlb_xs", "widths": [8, 8, 8]}
    start = {**victim, "path": str(tmp_path / "victim.safetensors")}
    study = write_study(
        tmp_path, scenario="linear_transfer", defenses=[defense],
        classifiers=[{**victim, "pretrained": start}],
    )  # fmt: skip
    head = open_workshop(str(tmp_path / "store"), "cuda", here=False)
    assert make_plan(read_study(study), head).units
    assert pick_device().type == "cpu"  # of what has no network


class Cluster(InProcess):
    """Has GPUs, and notes what is asked of it."""

    def __init__(self) -> None:
        self.asked = set[Resources]()

    def where(self) -> dict[str, Any]:
        return {"gpus": 2}

    def units(self, function: Any, payloads: Any, resources: Resources) -> Iterator[Done]:
        self.asked.add(resources)
        return super().units(function, payloads, resources)

    stream = trials = units


@pytest.mark.parametrize(
    ("defense", "device", "gpus"),
    [
        ("puregen_ebm", "auto", 1.0), ("puregen_ebm", "cpu", 0.0), ("puregen_ebm", "cuda", 1.0),
        ("jpeg", "auto", 0.0), ("jpeg", "cuda", 1.0),
    ],
)  # fmt: skip
def test_purify_asks_for_gpus_where_networks_run(
    defense: str, device: str, gpus: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.core.device._automatic", "auto")  # put back what is set here
    save_ebm(tmp_path / "ebm", EBM(EBMConfig(nf=8)), {})
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", images=images)
    network = {"ebm": {"path": str(tmp_path / "ebm")}, "steps": 2}
    raw = {"name": defense, **(network if defense == "puregen_ebm" else {})}
    job = Job(tmp_path / "in.npz", tmp_path / "out.npz", complete(DEFENSES, raw, "x"))
    shop, cluster = Workshop(Store(tmp_path / "store"), device, here=False), Cluster()
    done = run_job(job, shop, lambda: nullcontext(cluster), Progress.silent())
    assert cluster.asked == {Resources(gpus=gpus)}
    if device == "cuda" and not torch.cuda.is_available():  # a worker says so, not the head
        assert done == ["UsageError: " + NO_GPU]
    else:
        assert isinstance(done, dict)
        assert [each["device"] for each in done["environments"]] == [str(pick_device(device))]


def test_a_run_says_that_gpus_stand_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, study = list[str](), write_study(tmp_path)
    monkeypatch.setattr(Progress, "note", lambda self, text: said.append(text))
    for name, device in (("one", "auto"), ("two", "cpu")):
        shop = Workshop(Store(tmp_path / "store"), device)
        services = lambda work: nullcontext((Cluster(), None))  # noqa: E731
        run_study(read_study(study), shop, tmp_path / name, services, limit=1)
    assert ["2 GPUs stand idle" in text for text in said].count(True) == 1


@pytest.mark.parametrize(
    ("resources", "room"),
    [
        (Resources(cpus=1), 82),
        (Resources(cpus=1, gpus=1.0), 5),  # 64 CPUs have no GPU, and two GPUs no CPU
        (Resources(cpus=1, gpus=0.4), 8),  # two a card, not seven on three
        (Resources(cpus=1, gpus=0.2), 17),  # five a card: 1 // 0.2 would say four
        (Resources(cpus=1, gpus=0.1), 18),
        (Resources(cpus=2, gpus=2.0), 2),
    ],
)
def test_pieces_at_once_are_counted_by_node_and_card(
    resources: Resources, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.cluster.tasks import slots

    of_nodes = ({"CPU": 64.0}, {"CPU": 2.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 3.0})
    nodes = [{"Alive": True, "Resources": there} for there in of_nodes]
    nodes.append({"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}})
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert slots(resources) == room


@pytest.mark.cluster
def test_a_process_is_lent_one_gpu_and_ends() -> None:
    # A Ray of its own, told of a GPU: the tests' common one has none.
    command = [sys.executable, "-m", "tests.gpu_on_ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    without, first, second = json.loads(done.stdout)
    assert without["seen"] == ""
    assert first["seen"] == second["seen"] == "0"
    # CUDA stays on the GPU that a process saw first: of several, the next piece's may be another.
    assert first["pid"] != second["pid"]


@pytest.fixture
def head_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster of a head that computes nothing, and a node with a GPU, as it thinks."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]), prepend=os.pathsep)
    memory = 80 * 2**20
    head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=memory)
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.cluster
def test_purify_on_the_gpu_of_another_node(head_without_a_gpu: str, tmp_path: Path) -> None:
    """The manifest says on which card it was."""
    save_ebm(tmp_path / "ebm", EBM(EBMConfig(nf=8)), {})
    images = np.random.default_rng(0).integers(0, 256, (2 * CHUNK + 9, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", images=images)
    defense = {"name": "puregen_ebm", "steps": 2, "ebm": {"path": str(tmp_path / "ebm")}}
    common = ["--defense", json.dumps(defense), "--store", str(tmp_path / "store")]

    def purify(module: str, name: str, *options: str) -> list[str]:
        command = [sys.executable, "-m", *module.split(), str(tmp_path / "in.npz")]
        command += [str(tmp_path / f"{name}.npz"), *common, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        manifest = json.loads((tmp_path / f"{name}.json").read_text())
        return [each["device"] for each in manifest["environments"]]

    assert purify("harness purify", "here", "--in-process", "--device", "cpu") == ["cpu"]
    there = ["--device", "cuda", "--address", head_without_a_gpu]
    assert purify("tests.purify_on_ray", "there", *there) == ["Pretended GPU 0"]
    with np.load(tmp_path / "here.npz") as a, np.load(tmp_path / "there.npz") as b:
        np.testing.assert_array_equal(a["images"], b["images"])
