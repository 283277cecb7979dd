"""Run all benchmarks, each in a fresh interpreter, and write a page with a table of them.

    OMP_NUM_THREADS=2 python benchmarks/run_all.py

Neither Ray nor MLflow, pydantic or diffusers is imported by any of them; one that is fails the run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from _page import write_page

HERE = Path(__file__).resolve().parent
# What each benchmark is given: "tiny" only shows that it runs, "cpu" takes minutes on two cores.
SIZES: dict[str, dict[str, str]] = {
    "tiny": {
        "ebm_purification": "--nf 8 --batches 16 --steps 2",
        "ddpm_purification": "--networks small --batches 4 --steps 2",
        "ebm_training": "--nf 8 --batches 8 --chain-steps 2 --updates 1",
        "classifier_training": "--classifiers hlb_xs --batches 8 --updates 1",
        "epic_selection": "--rows 200 --shares 0.1",
    },
    "cpu": {
        "ebm_purification": "--nf 128 32 --batches 64 128 --steps 16",
        "ddpm_purification": "--networks small --batches 64 128 --steps 16",
        "ebm_training": "--nf 128 32 --batches 32 --chain-steps 10 --updates 2",
        "classifier_training": "--classifiers resnet18 hlb_s --batches 128 --updates 2",
        "epic_selection": "--rows 5000 --shares 0.1",
    },
    "gpu": {
        "ebm_purification": "--nf 128 --batches 128 2048 --steps 50",
        "ddpm_purification": "--networks 128 --batches 128 1024 --steps 25",
        "ebm_training": "--nf 128 --batches 128 --chain-steps 100 --updates 5",
        "classifier_training": "--classifiers resnet18 --batches 128 512 --updates 50",
        "epic_selection": "--rows 5000 --shares 0.1",
    },
}


def main() -> None:
    """Run them one after the other; the exit status says whether all of them agreed."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    there = "cuda" if torch.cuda.is_available() else "cpu"
    made.add_argument("--device", default=there, help="cpu or cuda[:i]; the GPU where there is one")
    made.add_argument("--size", choices=SIZES, help="cpu on a CPU, gpu on a GPU")
    made.add_argument("--repeats", default="5", help="runs of each form, taking turns")
    made.add_argument("--threads", default="0", help="0: torch's own choice")
    made.add_argument("--only", nargs="+", choices=SIZES["tiny"], help="some of them")
    made.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    made.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON files")
    made.add_argument("--page", type=Path, default=HERE.parent / "docs" / "speed.md")
    arguments = made.parse_args()
    size = arguments.size or ("gpu" if arguments.device.startswith("cuda") else "cpu")
    failed = []
    for name, options in SIZES[size].items():
        if arguments.only and name not in arguments.only:
            continue
        command = [sys.executable, str(HERE / f"{name}.py"), *options.split()]
        command += ["--device", arguments.device, "--repeats", arguments.repeats]
        command += ["--out", str(arguments.out / f"{name}.json")]
        if name != "epic_selection":  # which is on one thread by definition
            command += ["--threads", arguments.threads]
        if arguments.no_memory:
            command.append("--no-memory")
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    write_page(arguments.out, arguments.page)
    print(f"\nwritten: {arguments.page}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
