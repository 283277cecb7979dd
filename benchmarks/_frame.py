"""What all benchmarks share: timing side by side, peaks, memory, what machine it was, and JSON.

A benchmark yields cases; a case does the same work in several forms, of which the first side is
the straightforward one: what the papers' code does, in float32, with autograd where they use it.
All forms of a case take turns within one run, so that whatever else the machine does meets all of
them. Each side counts with the variant (batch size, say) that is best for it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from _profile import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# For a script, python only finds what lies beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.core.device import pick_dtype, true_float32

ROOT = Path(__file__).resolve().parents[1]
STRAIGHTFORWARD = "straightforward"
FORBIDDEN = ("ray", "mlflow", "pydantic", "diffusers")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TF32 = "tf32"  # float32 whose factors a GPU rounds to ten bits of mantissa
P, T = ParamSpec("P"), TypeVar("T")
LEFT_OUT = ("out", "peak_of", "profile", "no_memory")  # say nothing of what was measured


@dataclass(frozen=True, slots=True)
class Form:
    """One way to do the work of a case.

    Attributes:
        side: :data:`STRAIGHTFORWARD`, or how else.
        run: Does it once; what it returns is not looked at.
        count: Items that one run handles, in the case's unit.
        variant: What is varied within the side, for example ``batch 64``.
        precision: Type of its products, for the share of the peak; "" where products do not count.
        brief: A part of the same work, of a job too long to be done more often than it is timed: to
            warm up, and to see operations, memory and profile; None is ``run``.
        brief_count: Items that ``brief`` handles.
        compiled: Whether torch compiles a part of it. Then ``once`` meets all the shapes that
            ``run`` does, so that nothing is left to compile where it is timed.
    """

    side: str
    run: Callable[[], object]
    count: float = 1
    variant: str = ""
    precision: str = ""
    brief: Callable[[], object] | None = None
    brief_count: float = 1
    compiled: bool = False

    @property
    def once(self) -> tuple[Callable[[], object], float]:
        """What is run when it is not timed, and how many items that are."""
        return (self.run, self.count) if self.brief is None else (self.brief, self.brief_count)


@dataclass(frozen=True, slots=True)
class Case:
    """The same work in several forms.

    Attributes:
        what: Its name, in a few words.
        unit: What the seconds are per, for example ``image and step``.
        forms: The ways; those of the first side are what the others are compared with.
        check: Returns how far the results of the sides agree, by name; False is a failure.
        target: Ratio that the fastest side should reach on a CPU; None is none.
        aim_s: Seconds per unit that should be reached on a GPU; None is none.
        floor_s: Seconds per unit at an H200's published peak; None is not known.
        growth: What the forms, of one side then, have more and more of, and how much: their cost is
            fitted, not compared. None for sides that are compared.
    """

    what: str
    unit: str
    forms: Sequence[Form]
    check: Callable[[], dict[str, float | bool | str]]
    target: float | None = None
    aim_s: float | None = None
    floor_s: float | None = None
    growth: tuple[str, Sequence[float]] | None = None


@dataclass(slots=True)
class _Times:
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    flop: float = 0.0  # per item


class _CountFlop(TorchDispatchMode):
    """Counts what products and convolutions need; torch's own mode refuses ``autograd.grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


Cases = Callable[[argparse.Namespace], Iterable[Case]]


def parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes; ``defaults`` replaces some of its values."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    made.add_argument("--device", default="cpu", help="cpu or cuda[:i]")
    made.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    made.add_argument("--repeats", type=int, default=5, help="runs of each form, taking turns")
    made.add_argument(
        "--enough", type=float, default=600, help="seconds after which a case is repeated no more"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    made.add_argument("--profile", action="store_true", help="name the costliest operations")
    made.add_argument("--out", type=Path, help="JSON file to write")
    made.add_argument("--peak-of", help=argparse.SUPPRESS)
    made.set_defaults(**defaults)
    return made


def run(name: str, made: argparse.ArgumentParser, cases: Cases) -> None:
    """Measure all cases, print a line for each form, and write the JSON."""
    arguments = made.parse_args()
    device = torch.device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(_raise_peak(arguments, cases))
        return
    began = _load()
    peaks = _peaks(device, min(8, 2 * arguments.repeats))
    on, found, broken, imported = machine(device), [], [], []
    for index, case in enumerate(cases(arguments)):
        try:
            found.append(_measure(index, case, arguments, peaks))
        except Exception:  # noqa: BLE001 (a machine may be lent once: the other cases are measured)
            traceback.print_exc()
            broken.append(case.what)
            continue
        imported = sorted(set(FORBIDDEN) & sys.modules.keys())
        result = {
            "benchmark": name,
            "arguments": {k: v for k, v in vars(arguments).items() if k not in LEFT_OUT},
            "machine": on,
            "load": [began, _load()],
            "peak_gflop_per_s": {name: value / 1e9 for name, value in peaks.items()},
            "cases": found,
            "imported": imported,
        }
        if arguments.out:  # after each case: a run that is ended early leaves what it has
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    failed = [case["what"] for case in found if not case["agrees"]]
    if failed or broken or imported:
        sys.exit(f"results differ in {failed}; not measured: {broken}; imported: {imported}")


def native(device: torch.device | str) -> list[str]:
    """Return the types of ``TYPES`` that a device computes in.

    Without hardware for it bf16 is emulated: what is measured means nothing, and takes minutes.
    """
    there = {torch.float32, pick_dtype("auto", torch.device(device))}
    return [name for name, dtype in TYPES.items() if dtype in there]


def _peaks(device: torch.device, tries: int) -> dict[str, float]:
    names = [*native(device), *([TF32] if device.type == "cuda" else [])]
    types = {name: TYPES.get(name, torch.float32) for name in names}
    return {name: _exactly(peak, name)(device, dtype, tries) for name, dtype in types.items()}


def _exactly(work: Callable[P, T], precision: str) -> Callable[P, T]:
    """Return work whose float32 is float32 on a GPU too, where it is said to be."""
    if precision != "fp32":
        return work

    def exact(*given: P.args, **named: P.kwargs) -> T:
        with true_float32():
            return work(*given, **named)

    return exact


def _in_their_types(forms: Sequence[Form], device: torch.device) -> list[Form]:
    """Return forms in the types that they name; on a GPU, the straightforward ones in TF32 too.

    That is how torch computes convolutions there where nobody tells it otherwise.
    """
    if device.type != "cuda":
        return list(forms)
    found = []
    for form in forms:
        brief = form.brief and _exactly(form.brief, form.precision)
        found.append(replace(form, run=_exactly(form.run, form.precision), brief=brief))
        if (form.side, form.precision) == (STRAIGHTFORWARD, "fp32"):
            found.append(replace(form, side=f"{STRAIGHTFORWARD}, TF32", precision=TF32))
    return found


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Return seconds: of the processor's work where that is what works, or else elapsed ones."""
    synchronize(device)
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def peak(device: torch.device, dtype: torch.dtype, tries: int = 8) -> float:
    """Return the most floating point operations per second that a device was seen to do.

    On a CPU it is per second of a core, so that other work on the machine does not change it. Both
    a matrix product and a large convolution are tried: the library for one of them may be slow.
    """
    size, batch = (8192, 512) if device.type == "cuda" else (1024, 16)
    a = torch.randn((size, size), device=device).to(dtype)
    order = torch.channels_last
    x = torch.randn((batch, 256, 16, 16), device=device).to(dtype).to(memory_format=order)
    kernel = torch.randn((256, 256, 3, 3), device=device).to(dtype).to(memory_format=order)
    flop = {"product": 2 * size**3, "convolution": 2 * 9 * 256 * x.numel()}
    runs = {"product": lambda: a @ a, "convolution": lambda: F.conv2d(x, kernel, padding=1)}
    best = 0.0
    for _ in range(tries):
        for name, work in runs.items():
            began = clock(device)
            work()
            best = max(best, flop[name] / (clock(device) - began))
    return best


def machine(device: torch.device) -> dict[str, Any]:
    """Return on what, and with what, the figures were measured."""

    def git(*arguments: str) -> str:
        if not shutil.which("git"):  # a machine that is lent may have none, nor the repository
            return ""
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    cpu = Path("/proc/cpuinfo")
    names = cpu.read_text().splitlines() if cpu.exists() else []
    processor = next((n.partition(":")[2].strip() for n in names if n.startswith("model name")), "")
    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") + changed,
        "processor": processor or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bf16": bool(pick_dtype("auto", device) == torch.bfloat16),
    }


def _measure(
    index: int, case: Case, arguments: argparse.Namespace, peaks: dict[str, float]
) -> dict[str, Any]:
    device = torch.device(arguments.device)
    measured = _in_their_types(case.forms, device)
    times = _take_turns(measured, arguments.repeats, arguments.enough, device)
    forms = []
    for number, (form, found) in enumerate(zip(measured, times, strict=True)):
        figures = _figures(form, found, peaks)
        figures["peak_mib"] = (
            None if arguments.no_memory else _peak_mib(f"{index}/{number}", form, device)
        )
        if arguments.profile:
            figures |= profile(form.once[0], device)
        forms.append(figures)
    with true_float32():  # the checks' bounds are those of float32, not of a GPU's short factors
        check = case.check()
    result: dict[str, Any] = {
        "what": case.what, "unit": case.unit,
        "target": case.target if device.type == "cpu" else None,
        "aim_s": case.aim_s, "floor_s": case.floor_s, "forms": forms,
        "sides": {} if case.growth else _sides(forms),
        "growth": _growth(*case.growth, forms) if case.growth else None,
        "check": check, "agrees": all(value is not False for value in check.values()),
        "load": _load(),
    }  # fmt: skip
    _report(result)
    return result


def _take_turns(
    forms: Sequence[Form], repeats: int, enough: float, device: torch.device
) -> list[_Times]:
    times = [_Times() for _ in forms]
    for form, found in zip(forms, times, strict=True):  # the first run warms up
        work, count = form.once
        # What torch is to compile while operations are counted, it never compiles again.
        eager = torch.compiler.set_stance("force_eager") if form.compiled else nullcontext()
        with eager, _CountFlop() as counter:
            work()
        found.flop = counter.total / count
        if form.compiled:
            work()
    first = time.perf_counter()
    for _ in range(repeats):
        for form, found in zip(forms, times, strict=True):
            synchronize(device)
            began, began_cpu = time.perf_counter(), clock(device)
            form.run()
            synchronize(device)
            found.seconds.append(time.perf_counter() - began)
            found.cpu.append(clock(device) - began_cpu)
        if time.perf_counter() - first > enough:
            break
    return times


def _figures(form: Form, found: _Times, peaks: dict[str, float]) -> dict[str, Any]:
    median = statistics.median(found.seconds)
    figures: dict[str, Any] = {
        "side": form.side, "variant": form.variant, "count": form.count,
        "seconds": found.seconds,
        "median_s": median / form.count,
        "median_cpu_s": statistics.median(found.cpu) / form.count,
        "least_s": min(found.seconds) / form.count,
        "spread": (max(found.seconds) - min(found.seconds)) / median,
        "per_s": form.count / median,
        "gflop": found.flop / 1e9,
        "tflop_per_s": found.flop * form.count / median / 1e12,
    }  # fmt: skip
    if form.precision in peaks and found.flop:
        rate = found.flop * form.count / statistics.median(found.cpu)
        figures["share_of_peak"] = rate / peaks[form.precision]
    return figures


def _growth(axis: str, values: Sequence[float], forms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a run costs along an axis, and the power of the axis that fits it best."""
    seconds = [form["median_s"] for form in forms]
    fit = statistics.linear_regression(
        [math.log(v) for v in values], [math.log(s) for s in seconds]
    )
    return {"axis": axis, "values": list(values), "seconds": seconds, "exponent": fit.slope}


def _sides(forms: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each side, its best variant and how often faster than the first side's it is."""
    sides: dict[str, dict[str, Any]] = {}
    for side in dict.fromkeys(form["side"] for form in forms):
        of_side = [form for form in forms if form["side"] == side]
        best = min(of_side, key=lambda form: form["median_s"])
        sides[side] = {k: best[k] for k in ("variant", "median_s", "peak_mib")}
        for key, name in (("median_s", "ratio"), ("median_cpu_s", "cpu_ratio")):
            least = {s: min(f[key] for f in forms if f["side"] == s) for s in (*sides, side)}
            sides[side][name] = least[next(iter(sides))] / least[side]
        plain = {f["variant"]: f for f in forms if f["side"] == next(iter(sides))}
        sides[side]["ratio_at"] = {
            form["variant"]: plain[form["variant"]]["median_s"] / form["median_s"]
            for form in of_side
            if form["variant"] in plain
        }
    return sides


def _load() -> list[float] | None:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _report(result: dict[str, Any]) -> None:
    print(f"\n{result['what']} (seconds per {result['unit']}; load {result['load']})")
    for form in result["forms"]:
        share, memory = form.get("share_of_peak"), form["peak_mib"]
        print(
            f"  {form['side']:16} {form['variant']:10} {form['median_s']:11.3e} s, "
            f"{form['median_cpu_s']:10.3e} s of CPU, spread {form['spread']:4.0%}, "
            f"{form['per_s']:.4g} per s"
            + (f", {form['tflop_per_s']:.3g} TFLOP/s" if form["gflop"] else "")
            + (f", {share:4.0%} of peak" if share is not None else "")
            + (f", {memory:.0f} MiB" if memory is not None else "")
        )
    for side, figures in list(result["sides"].items())[1:]:
        print(f"  {side}: {figures['ratio']:.2f} times as fast, by CPU {figures['cpu_ratio']:.2f}")
    if result["growth"]:
        growth = result["growth"]
        print(f"  grows as the power {growth['exponent']:.2f} of {growth['axis']}")
    if result["check"]:
        print("  " + ", ".join(f"{name}: {value}" for name, value in result["check"].items()))


# Memory: on a CPU by how much one run raises that of a fresh process, at its peak.


def _peak_mib(place: str, form: Form, device: torch.device) -> float | None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        form.once[0]()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, *sys.argv, "--peak-of", place]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _raise_peak(arguments: argparse.Namespace, cases: Cases) -> float:
    index, number = map(int, arguments.peak_of.split("/"))
    form = next(_nth(cases(arguments), index)).forms[number]
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of imports, is forgotten
    before = _status("VmRSS")
    form.once[0]()
    return (_status("VmHWM") - before) / 1024


def _nth(cases: Iterable[Case], index: int) -> Iterator[Case]:
    return (case for i, case in enumerate(cases) if i == index)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))  # KiB
