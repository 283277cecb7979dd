"""The benchmarks run, their forms agree, and they import nothing heavy; no figure is asserted."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_import_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_all_benchmarks_run_and_agree(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    command = [
        sys.executable, str(BENCHMARKS / "run_all.py"), "--size", "tiny", "--device", "cpu",
        "--repeats", "1", "--threads", "1", "--no-memory", "--one-process", "--out",
        str(tmp_path), "--page", str(page),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "per s" in done.stdout and "TFLOP/s" in done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(results) == 10
    for result in results:
        assert result["imported"] == []
        for case in result["cases"]:
            assert case["agrees"]
            for form in case["forms"]:
                assert form["median_s"] > 0
                assert form["per_s"] == pytest.approx(1 / form["median_s"])
                shares = [each["share"] for each in form["profile"]]
                assert shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1 + 1e-6
            if case["growth"]:
                assert len(case["growth"]["seconds"]) == len(case["growth"]["values"]) > 1
            else:
                assert {form["side"] for form in case["forms"]} > {"straightforward"}
    text = page.read_text()
    assert text.count("straightforward, ") >= 4
    assert "grows as the power" in text and "<details>" in text and "no GPU" in text


def test_a_long_case_is_not_repeated_for_ever() -> None:
    from _frame import Form, _take_turns

    forms = [Form(side, lambda: None) for side in ("straightforward", "ours")]
    for enough, rounds in ((60.0, 3), (0.0, 1)):
        times = _take_turns(forms, 3, enough, torch.device("cpu"))
        assert [len(form.seconds) for form in times] == [rounds, rounds]


def test_a_compiled_form_is_compiled_before_it_is_timed() -> None:
    from _frame import STRAIGHTFORWARD, Form, _take_turns
    from whole_jobs import _case

    graphs, calls = [], []

    def backend(graph: Any, _: object) -> Any:
        graphs.append(graph)
        return lambda *x: calls.append(len(x[0])) or graph(*x)

    weight = torch.ones(3, 3)

    def ours(precision: str, rows: int, compiled: bool) -> None:
        work = lambda x: (x @ weight).relu()  # noqa: E731
        if compiled:
            work = torch.compile(work, backend=backend, dynamic=False)
        for rows_at_once in torch.ones(rows, 3).split(4):
            work(rows_at_once)

    arguments = Namespace(sample=2, device="cpu", full=False, compile=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whole_jobs._compiles", lambda arguments: True)
        job = _case("job", "x", lambda count: None, ours, 11, arguments, batch=4)
    plain, eager, compiled = job.forms
    assert (plain.side, eager.brief_count) == (STRAIGHTFORWARD, 2 / 11)
    assert compiled.brief_count == 7 / 11  # a batch of 4 and the last one, of 3
    counted = _take_turns(
        [Form("x", compiled.once[0], 7, compiled=True)], 0, 60, torch.device("cpu")
    )
    assert counted[0].flop == 2 * 3 * 3
    assert len(graphs) == 2 and calls == [4, 3]
    times = _take_turns([compiled], 2, 60.0, torch.device("cpu"))
    assert len(times[0].seconds) == 2 and len(graphs) == 2
    assert calls[2:] == [4, 3] + 2 * [4, 4, 3]


def test_gradient_matching_is_checked_in_the_order_that_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gradient_matching as benchmark

    orders, gradient = list[bool](), benchmark.Problem.gradient

    def noted(self: Any, *given: Tensor) -> Tensor:
        weights = [p for p in self.surrogates[0].parameters if p.ndim == 4 and p.shape[2] > 1]
        orders.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in weights))
        return gradient(self, *given)

    monkeypatch.setattr(benchmark.Problem, "gradient", noted)
    some = Namespace(restarts=2, poisons=2, seed=0, device="cpu")
    assert benchmark._case("hlb_xs", some).check()["equal"] is True
    assert orders == [True]


def test_a_case_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from _frame import STRAIGHTFORWARD, Case, Form, parser, run

    def no_memory() -> None:
        raise torch.OutOfMemoryError("too large")

    def cases(arguments: Namespace) -> Any:
        for what, work in (("large", no_memory), ("small", lambda: None)):
            yield Case(what, "run", [Form(STRAIGHTFORWARD, work)], dict)

    monkeypatch.setattr("_frame.peak", lambda *_: 1.0)
    out = str(tmp_path / "x.json")
    monkeypatch.setattr(sys, "argv", ["x", "--repeats", "1", "--no-memory", "--out", out])
    with pytest.raises(SystemExit, match=r"not measured: \['large'\]"):
        run("x", parser(""), cases)
    assert [case["what"] for case in json.loads(Path(out).read_text())["cases"]] == ["small"]


def test_a_script_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    from run_all import _run

    (tmp_path / "broken.py").write_text("1 / 0")
    assert not _run([str(tmp_path / "broken.py")], one_process=True)


def test_float32_is_float32_on_a_gpu_and_tf32_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import _frame
    from _frame import STRAIGHTFORWARD, Form

    seen = list[str]()

    def note(*_: object) -> float:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return 1.0

    sides = [(STRAIGHTFORWARD, "fp32"), ("ours, fp32", "fp32"), ("ours, bf16", "bf16")]
    forms = [Form(side, note, precision=kind, brief=note) for side, kind in sides]
    measured = _frame._in_their_types(forms, torch.device("cuda"))
    assert [(form.side, form.precision) for form in measured] == [
        sides[0], ("straightforward, TF32", "tf32"), *sides[1:],
    ]  # fmt: skip
    for form in measured:
        form.run()
        form.once[0]()
    assert seen == [*2 * ["ieee"], *2 * ["tf32"], *2 * ["ieee"], *2 * ["tf32"]]
    assert _frame._in_their_types(forms, torch.device("cpu")) == forms
    seen.clear()
    monkeypatch.setattr(_frame, "peak", note)
    monkeypatch.setattr(_frame, "native", lambda device: ["fp32", "bf16"])
    assert [*_frame._peaks(torch.device("cuda"), 1)] == ["fp32", "bf16", "tf32"]
    assert seen == ["ieee", "tf32", "tf32"]


def test_heads_are_profiled_over_few_epochs() -> None:
    import linear_heads as benchmark
    from _frame import _take_turns

    def case(epochs: int) -> Any:
        some = Namespace(seed=0, rows=8, features=4, epochs=epochs, device="cpu")
        return benchmark._case(3, some)

    once = [form.once for form in case(40).forms]
    assert [count for _, count in once] == 2 * [3 * 2 / 40]
    seen = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        note = lambda *given: seen.append(given[2].epochs)  # noqa: E731
        patch.setattr(benchmark, "straightforward", note)
        patch.setattr(benchmark, "batched", note)
        for form in case(40).forms:
            form.run()
            form.once[0]()
    assert seen == [40, 2, 40, 2]
    few, many = (_take_turns(case(n).forms, 0, 60, torch.device("cpu")) for n in (4, 8))
    assert [2 * one.flop for one in few] == [one.flop for one in many]  # per head: per epoch once


def test_every_size_is_one_that_its_script_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    from run_all import SIZES

    taken = dict[tuple[str, str], Namespace]()
    for size, scripts in SIZES.items():
        for name, options in scripts.items():
            note = lambda _, made, cases, o=options, key=(size, name): taken.update(  # noqa: E731
                {key: made.parse_args(o.split())}
            )
            monkeypatch.setattr(import_module(name), "run", note)
            import_module(name).main()
    assert len(taken) == sum(map(len, SIZES.values()))
    whole = vars(taken["gpu", "whole_jobs"])  # of which aims and floors are
    assert whole.items() >= import_module("whole_jobs").FULL.items()
    assert whole["jobs"][-1] == "diffusion" and not whole["compile"]


def test_a_machine_without_git_is_told_of_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from _frame import machine

    monkeypatch.setenv("PATH", "")
    assert machine(torch.device("cpu"))["commit"] == ""


def test_kernels_and_operations_are_counted_apart() -> None:
    from types import SimpleNamespace

    from _profile import costliest

    listed = [("cpu", "conv2d", 0.0), ("gpu", "nchw_to_nhwc", 1.0), ("gpu", "sm90_conv", 3.0)]
    events = [SimpleNamespace(device_type=d, key=k, count=2, own=t) for d, k, t in listed]
    kernels = [(each["operation"], each["share"]) for each in costliest(events, "gpu", "own")]
    assert kernels == [("sm90_conv", 0.75), ("nchw_to_nhwc", 0.25)]
    assert costliest(events, "cpu", "own") == [{"operation": "conv2d", "calls": 2, "share": 0.0}]


def test_growth_is_the_power_that_fits() -> None:
    from _frame import _growth

    forms = [{"median_s": 3.0 * value**1.5} for value in (2, 4, 16)]
    assert _growth("images", [2, 4, 16], forms)["exponent"] == pytest.approx(1.5)


def _one(shift: float, slope: float = 1.0) -> Any:
    """A row of three units, the first of them at its kink: its gradient, in a form that is off."""
    x = torch.tensor([[1.0, 2.0, 3.0]])

    def gradient() -> Tensor:
        inputs = x.clone().requires_grad_()
        out = torch.relu(inputs - torch.tensor([1.0 + shift, 0.0, 0.0]))
        return torch.autograd.grad(slope * out.sum(), inputs)[0]

    return gradient


def _apart(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


def test_only_a_unit_at_its_kink_explains_a_difference() -> None:
    from _kinks import compare

    same = compare(_one(-1e-6), _one(-1e-6), _apart)
    assert same.equal and same.explained == 0
    flipped = compare(_one(-1e-6), _one(1e-6), _apart)
    assert flipped.off[0] > 0.1 and flipped.flips[0] == 1
    assert flipped.equal and flipped.explained == 1
    wrong = compare(_one(-1e-6), _one(1e-6, slope=1.01), _apart)
    assert not wrong.equal and wrong.explained == 0
    assert not compare(_one(-1e-6), _one(-1e-6, slope=1.01), _apart).equal
    far = compare(_one(-0.1), _one(0.1), _apart)
    assert far.flips[0] == 1 and not far.equal


def test_a_wrong_training_step_is_found() -> None:
    import classifier_training as benchmark
    import numpy as np

    from harness.core.data import ImageSet
    from harness.core.recipe import Recipe

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 2, 2), dtype=np.uint8)
    train = ImageSet(images, np.arange(6) % 3, np.arange(6), 3)
    for decayed in ("all", "weights"):
        recipe = Recipe(decayed=decayed, weight_decay=0.1)
        error = benchmark.update_error(net, train, recipe, "cpu")
        assert error < benchmark.UPDATE_TOLERANCE
    with pytest.MonkeyPatch.context() as patch:
        plain = benchmark.sgd
        patch.setattr(
            benchmark, "sgd", lambda model, recipe: _without_nesterov(plain, model, recipe)
        )
        assert benchmark.update_error(net, train, recipe, "cpu") > 0.01


def _without_nesterov(plain: Any, model: Any, recipe: Any) -> torch.optim.SGD:
    optimizer = plain(model, recipe)
    for group in optimizer.param_groups:
        group["nesterov"] = False
    return optimizer


def test_only_the_whole_job_has_an_aim() -> None:
    from whole_jobs import _case

    def case(full: bool) -> Any:
        arguments = Namespace(sample=1000, device="cpu", full=full, compile=False)
        return _case("job", "x", len, len, 50_000, arguments, aim_s=30, floor_s=5)

    assert (case(True).aim_s, case(True).floor_s) == (30, 5)
    assert (case(False).aim_s, case(False).floor_s) == (None, None)
    assert case(True).forms[0].count == 1000 / 50_000
    assert "extrapolated from 1,000 of 50,000" in case(True).forms[0].variant


def _result(device: str, **case: Any) -> dict[str, Any]:
    forms = [
        {"side": side, "variant": "", "median_s": s, "gflop": 2000.0, "peak_mib": None}
        | {"seconds": [s] * n}
        for side, s, n in (("straightforward", 2.0, 3), ("ours", 0.5, 5))
    ]
    sides = {
        form["side"]: {"variant": "", "ratio": 2 / form["median_s"], "cpu_ratio": 1.0}
        for form in forms
    }
    machine = {
        "device": device, "processor": "P", "bf16": device != "cpu", "threads": 1, "cores": 1,
        "torch": "", "python": "", "commit": "",
    }  # fmt: skip
    whole = {
        "what": "W",
        "unit": "job",
        "target": None,
        "forms": forms,
        "sides": sides,
        "check": {},
    }
    return {
        "benchmark": "ebm_purification", "machine": machine, "arguments": {},
        "load": [None], "peak_gflop_per_s": {}, "cases": [whole | case],
    }  # fmt: skip


def test_the_page_shows_cpu_and_gpu_with_their_own_aims(tmp_path: Path) -> None:
    from _page import make_page

    (tmp_path / "ebm.json").write_text(json.dumps(_result("cpu", target=4.5)))
    assert "no GPU and no processor" in make_page(tmp_path)
    assert "; medians of 3 to 5." in make_page(tmp_path)
    (tmp_path / "ebm_cuda.json").write_text(json.dumps(_result("H200", aim_s=30, floor_s=5)))
    text = make_page(tmp_path)
    cpu, gpu = text.split("## EBM purification on H200\n")
    assert "## EBM purification\n" in cpu and "| 4.00 (1.00) | 4.5 |" in cpu
    assert "| 500 ms per job | 2/s, 4 TFLOP/s | 4.00 (1.00) | 30 s, floor 5 s |" in gpu
    assert "no GPU" not in text and "no processor that computes bf16" in text


def test_the_page_is_that_of_the_results() -> None:
    from _page import make_page

    results = BENCHMARKS / "results"
    if not list(results.glob("*.json")):
        pytest.skip("no results here: run benchmarks/run_all.py")
    assert (BENCHMARKS.parent / "docs" / "speed.md").read_text() == make_page(results)
