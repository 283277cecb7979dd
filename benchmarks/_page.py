"""The page that says how fast it is, made of the JSON files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INTRODUCTION = """# Speed

Made by `python benchmarks/run_all.py`; see `benchmarks/README.md` for what is compared with what.
All forms of a row ran in one process, taking turns; times are medians, each side at its best batch
size. *Times as fast* is against the straightforward form (float32, NCHW order, autograd); in
brackets, against it in processor time, which other work on the machine does not change. *Peak* is
the share of the most operations per second that the same run saw in a matrix product or a large
convolution of that type. *Aim* is for processors that compute bf16 in hardware; without it, bf16 is
emulated and left out. *Memory* is what one run takes at its peak.
"""


def write_page(results: Path, page: Path) -> None:
    """Write the page of the JSON files in a folder."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join([INTRODUCTION, *(line for one in found for line in _section(one))]))


def _section(result: dict[str, Any]) -> Iterator[str]:
    machine, peaks = result["machine"], result["peak_gflop_per_s"]
    title = result["benchmark"].replace("_", " ").capitalize()
    yield f"## {title.replace('Ebm', 'EBM').replace('Ddpm', 'DDPM').replace('Epic', 'EPIC')}"
    yield ""
    where = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    load = "" if result["load"][0] is None else f", load {result['load'][0][0]:.1f} before it"
    yield (
        f"{where}, {machine['threads']} of {machine['cores']} cores"
        f"{'' if machine['bf16'] else ', without bf16'}{load}; "
        f"torch {machine['torch']}, python {machine['python']}, commit `{machine['commit']}`; "
        f"peaks {' and '.join(f'{v:,.0f} ({k})' for k, v in peaks.items())} GFLOP/s"
        + (" per core" if machine["device"] == "cpu" else "")
        + f"; medians of {result['arguments']['repeats']}."
    )
    yield ""
    yield "| what | form | time | times as fast | aim | peak | memory | agreement |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in result["cases"]:
        yield from _rows(case)
    yield ""


def _rows(case: dict[str, Any]) -> Iterator[str]:
    for number, (side, figures) in enumerate(case["sides"].items()):
        form = next(
            f for f in case["forms"] if f["side"] == side and f["variant"] == figures["variant"]
        )
        name = side + (f", {form['variant']}" if form["variant"] else "")
        ratio = f"{figures['ratio']:.2f} ({figures['cpu_ratio']:.2f})" if number else ""
        share = form.get("share_of_peak")
        memory = "" if form["peak_mib"] is None else f"{form['peak_mib']:,.0f} MiB"
        cells = [
            "" if number else case["what"],
            name,
            f"{_time(form['median_s'])} per {case['unit']}",
            ratio,
            f"{case['target']:g}" if number and case["target"] else "",
            "" if share is None else f"{share:.0%}",
            memory,
            "" if number else _agreement(case["check"]),
        ]
        yield "| " + " | ".join(cells) + " |"


def _agreement(check: dict[str, float | bool]) -> str:
    return "; ".join(
        f"{name}: {('no', 'yes')[value] if isinstance(value, bool) else format(value, '.2g')}"
        for name, value in check.items()
    )


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
