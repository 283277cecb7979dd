"""The page that says how fast it is, made of the JSON files of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

INTRODUCTION = """# Speed

Made by `python benchmarks/run_all.py`; see `benchmarks/README.md` for what is compared with what.
All forms of a row ran in one process, taking turns; times are medians, each side at its best batch
size, and *rate* is what one such time comes to. *Times as fast* is against the straightforward form
(float32, NCHW order, autograd); in brackets, against it in processor time, which other work on the
machine does not change. *Aim* on a CPU is a ratio, for processors that compute bf16 in hardware;
without it, bf16 is emulated and left out. On a GPU it is a time on one H200, with the time at its
published peak as the floor. *Peak* is the share of the most operations per second that the same run
saw in a matrix product or a large convolution of that type. *Memory* is what one run takes at its
peak.
"""
NAMES = {"Ebm": "EBM", "Ddpm": "DDPM", "Epic": "EPIC", "Friends": "FRIENDS"}


def write_page(results: Path, page: Path) -> None:
    """Write the page of the JSON files in a folder."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(make_page(results))


def make_page(results: Path) -> str:
    """Return the page of the JSON files in a folder: of each benchmark, CPU and GPU."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    lines = [INTRODUCTION, *_unmeasured([one["machine"] for one in found])]
    return "\n".join([*lines, *(line for one in found for line in _section(one))])


def _unmeasured(machines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say which kind of hardware no figure is of."""
    missing = []
    if all(machine["device"] == "cpu" for machine in machines):
        missing.append("GPU")
    if not any(machine["bf16"] for machine in machines if machine["device"] == "cpu"):
        missing.append("processor that computes bf16 in hardware")
    if missing:
        yield f"**Not measured: no {' and no '.join(missing)} could be had.**"
        yield ""


def _section(result: dict[str, Any]) -> Iterator[str]:
    machine, peaks = result["machine"], result["peak_gflop_per_s"]
    on_cpu = machine["device"] == "cpu"
    title = result["benchmark"].replace("_", " ").capitalize()
    for word, name in NAMES.items():
        title = title.replace(word, name)
    yield f"## {title}" + ("" if on_cpu else f" on {machine['device']}")
    yield ""
    where = machine["processor"] if on_cpu else machine["device"]
    load = "" if result["load"][0] is None else f", load {result['load'][0][0]:.1f} before it"
    yield (
        f"{where}, {machine['threads']} of {machine['cores']} cores"
        f"{'' if machine['bf16'] else ', without bf16'}{load}; "
        f"torch {machine['torch']}, python {machine['python']}, commit `{machine['commit']}`; "
        f"peaks {' and '.join(f'{v:,.0f} ({k})' for k, v in peaks.items())} GFLOP/s"
        + (" per core" if on_cpu else "")
        + f"; medians of {_repeats(result['cases'])}."
    )
    yield ""
    compared = [case for case in result["cases"] if not case.get("growth")]
    if compared:
        yield "| what | form | time | rate | times as fast | aim | peak | memory | agreement |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for case in compared:
            yield from _rows(case)
        yield ""
    yield from _growth([case for case in result["cases"] if case.get("growth")])
    yield from _profiles(result["cases"])


def _repeats(cases: Sequence[dict[str, Any]]) -> str:
    counts = {len(form["seconds"]) for case in cases for form in case["forms"]}
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def _rows(case: dict[str, Any]) -> Iterator[str]:
    for number, (side, form) in enumerate(_best(case)):
        figures, share = case["sides"][side], form.get("share_of_peak")
        cells = [
            "" if number else case["what"],
            side + (f", {form['variant']}" if form["variant"] else ""),
            f"{_time(form['median_s'])} per {case['unit']}",
            _rate(form),
            f"{figures['ratio']:.2f} ({figures['cpu_ratio']:.2f})" if number else "",
            _aim(case) if number else "",
            "" if share is None else f"{share:.0%}",
            "" if form["peak_mib"] is None else f"{form['peak_mib']:,.0f} MiB",
            "" if number else _agreement(case["check"]),
        ]
        yield "| " + " | ".join(cells) + " |"


def _best(case: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each side and its best form; of a case without sides, each form."""
    for form in case["forms"]:
        best = case["sides"].get(form["side"])
        if best is None or best["variant"] == form["variant"]:
            yield form["side"], form


def _rate(form: dict[str, Any]) -> str:
    rate = f"{1 / form['median_s']:.3g}/s"
    flop = form["gflop"] / form["median_s"]
    return f"{rate}, {flop / 1000:.2g} TFLOP/s" if form["gflop"] else rate


def _aim(case: dict[str, Any]) -> str:
    if case["target"]:
        return f"{case['target']:g}"
    times = [("", case.get("aim_s")), ("floor ", case.get("floor_s"))]
    return ", ".join(f"{word}{_time(seconds)}" for word, seconds in times if seconds)


def _growth(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not cases:
        return
    yield "| what grows | form | from | to | time of a run, from | to | grows as the power |"
    yield "|---|---|---|---|---|---|---|"
    for case in cases:
        growth = case["growth"]
        values, seconds = growth["values"], growth["seconds"]
        ends = [f"{values[0]:g}", f"{values[-1]:g}", _time(seconds[0]), _time(seconds[-1])]
        cells = [case["what"], case["forms"][0]["side"], *ends, f"{growth['exponent']:.2f}"]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _profiles(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    found = [
        (case["what"], side, form) for case in cases for side, form in _best(case)
        if "profile" in form and not case.get("growth")
    ]  # fmt: skip
    if not found:
        return
    yield "<details><summary>Where the time goes: the ten costliest operations</summary>"
    yield ""
    for what, side, form in found:
        shares = [f"{each['operation']} {each['share']:.0%}" for each in form["profile"]]
        yield f"- {what}; {side}: {', '.join(shares)}"
    yield ""
    yield "</details>"
    yield ""


def _agreement(check: dict[str, float | bool | str]) -> str:
    return "; ".join(f"{name}: {_value(value)}" for name, value in check.items())


def _value(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return ("no", "yes")[value]
    return value if isinstance(value, str) else format(value, ".2g")


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
