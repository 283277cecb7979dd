"""How fast EPIC's medoids are found, against the plain greedy search in the same run.

One class of gradient proxies; both sides make their own matrix of similarities and choose the same
number of medoids. The plain side computes all gains over the whole matrix for each medoid, some
rows at a time in a buffer that stays in the cache, which is several times faster than with
temporary arrays of the matrix's size. Run it on one core:

    OMP_NUM_THREADS=1 python benchmarks/epic_selection.py --out epic_selection.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from defenses._facility_location import UNIT, Clusters, facility_location

BLOCKS_MIB = 16  # cap of the side that never holds the matrix


def proxies(n: int, classes: int, seed: int) -> Tensor:
    """Return gradients at the logits of one class as a half-trained network gives them.

    Most rows are near one of a few modes with a clear answer; a twentieth have a wrong one.
    """
    source = torch.Generator().manual_seed(seed)
    modes = torch.randn((20, classes), generator=source)
    which = torch.randint(20, (n,), generator=source)
    logits = modes[which] + 0.7 * torch.randn((n, classes), generator=source)
    logits[:, 0] += 3
    logits[: n // 20, 0] -= 5
    gradient = torch.softmax(logits, 1)
    gradient[:, 0] -= 1
    return gradient


def plain_greedy(points: Tensor, budget: int) -> Clusters:
    """Return the same as ``facility_location``; all gains are computed anew for each medoid."""
    n, features = points.shape
    matrix = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    matrix.mul_(-1 / features).exp_().mul_(1 / UNIT).round_().mul_(UNIT)
    best, taken = torch.zeros(n), torch.zeros(n, dtype=torch.bool)
    medoids, values = [], []
    buffer, gains = torch.empty((50, n)), torch.empty(n, dtype=torch.float64)
    for _ in range(budget):
        for rows, out in zip(matrix.split(50), gains.split(50), strict=True):
            terms = torch.sub(rows, best, out=buffer[: len(rows)]).clamp_(min=0)
            torch.sum(terms, 1, dtype=torch.float64, out=out)
        gains[taken] = -torch.inf
        medoid = n - 1 - int(gains.flip(0).argmax())
        medoids.append(medoid)
        values.append(float(gains[medoid]))
        taken[medoid] = True
        best = torch.maximum(best, matrix[medoid])
    chosen = torch.tensor(medoids)
    return Clusters(chosen, torch.tensor(values, dtype=torch.float64), matrix[:, chosen].argmax(1))


def measure(
    run: Callable[[], Clusters], repeats: int, warm: Callable[[], Clusters]
) -> tuple[list[float], list[float], Clusters]:
    """Return elapsed and processor seconds of some runs, and the last result."""
    warm()
    seconds, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        found = run()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return seconds, cpu, found


def peak_mib(side: str, arguments: argparse.Namespace, budget: int) -> float:
    """Return by how much one run raises the memory of a fresh process at its peak, in MiB."""
    command = [
        sys.executable, __file__, "--peak-of", side, "--budget", str(min(budget, 20)),
        "--rows", str(arguments.rows), "--memory-mib", str(arguments.memory_mib),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def raise_peak(arguments: argparse.Namespace) -> float:
    """Run one side with a few medoids, whose number takes no memory; see ``peak_mib``. Linux."""
    points = proxies(arguments.rows, arguments.classes, arguments.seed)
    run = sides(arguments)[arguments.peak_of]
    run(points[:100], 5)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of imports, is forgotten
    before = _status("VmRSS")
    run(points, arguments.budget)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))  # KiB


def sides(arguments: argparse.Namespace) -> dict[str, Callable[[Tensor, int], Clusters]]:
    """Return what is compared, by name."""
    return {
        "plain": plain_greedy,
        "held": lambda p, b: facility_location(p, b, memory_mib=arguments.memory_mib),
        "blocks": lambda p, b: facility_location(p, b, memory_mib=BLOCKS_MIB),
    }


def dropped(found: Clusters) -> set[int]:
    """Return the rows in clusters of one row."""
    return set((found.sizes()[found.cluster] <= 1).nonzero().squeeze(1).tolist())


def compare(share: float, arguments: argparse.Namespace) -> dict[str, object]:
    """Return one budget's figures: seconds, ratio, memory, and whether the results agree."""
    points = proxies(arguments.rows, arguments.classes, arguments.seed)
    budget = int(share * len(points))
    few = points[:300]
    results, figures = {}, {}
    for name, run in sides(arguments).items():
        repeats = arguments.plain_repeats if name == "plain" else arguments.repeats
        seconds, cpu, results[name] = measure(
            lambda run=run: run(points, budget), repeats, lambda run=run: run(few, 30)
        )
        figures[name] = {
            "median_s": statistics.median(seconds),
            "median_cpu_s": statistics.median(cpu),
            "seconds": seconds,
            "peak_mib": peak_mib(name, arguments, budget),
            "objective": float(results[name].gains.sum()),
            "dropped": len(dropped(results[name])),
        }
    plain, ours = results["plain"], results["held"]
    alike = [torch.equal(plain.medoids, results[name].medoids) for name in ("held", "blocks")]

    def ratio(side: str, column: str) -> float:
        return figures["plain"][column] / figures[side][column]

    return {
        "rows": len(points),
        "budget": budget,
        "sides": figures,
        "ratio": ratio("held", "median_s"),
        "ratio_cpu": ratio("held", "median_cpu_s"),
        "ratio_blocks": ratio("blocks", "median_s"),
        "ratio_blocks_cpu": ratio("blocks", "median_cpu_s"),
        "same_medoids": all(alike),
        "same_dropped": dropped(plain) == dropped(ours) == dropped(results["blocks"]),
        "objective_difference": abs(float(ours.gains.sum() / plain.gains.sum()) - 1),
    }


def main() -> None:
    """Compare the two sides for each budget, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=5000, help="rows of one class")
    parser.add_argument("--classes", type=int, default=10, help="features of a proxy")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3], help="medoids/rows")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the fast side")
    parser.add_argument("--plain-repeats", type=int, default=3, help="runs of the plain side")
    parser.add_argument("--memory-mib", type=int, default=1536, help="cap of the fast side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--peak-of", choices=["plain", "held", "blocks"], help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak_of:
        print(raise_peak(arguments))
        return
    found = [compare(share, arguments) for share in arguments.shares]
    for figures in found:
        print(f"\n{figures['rows']} rows, {figures['budget']} medoids, one thread")
        for name, side in figures["sides"].items():
            runs = len(side["seconds"])
            print(
                f"  {name:7} {side['median_s']:8.3f} s, "
                f"{side['median_cpu_s']:8.3f} s of CPU (medians of {runs})  "
                f"{side['peak_mib']:7.0f} MiB  objective {side['objective']:.4f}  "
                f"dropped {side['dropped']}"
            )
        print(
            f"  ratio {figures['ratio']:.1f}, of CPU {figures['ratio_cpu']:.1f}; "
            f"in blocks {figures['ratio_blocks']:.1f}, {figures['ratio_blocks_cpu']:.1f}; "
            f"same medoids: {figures['same_medoids']}; same drop set: {figures['same_dropped']}; "
            f"objective differs by {figures['objective_difference']:.1e}"
        )
    if arguments.out:
        result = {"torch": torch.__version__, "machine": platform.machine(), "results": found}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
