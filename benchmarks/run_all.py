"""Run all benchmarks, each in a fresh interpreter, and write a page with a table of them.

    OMP_NUM_THREADS=2 python benchmarks/run_all.py

Neither Ray nor MLflow, pydantic or diffusers is imported by any of them; one that is fails the run.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import torch
from _page import write_page

HERE = Path(__file__).resolve().parent
# What each benchmark is given: "tiny" only shows that it runs, "cpu" takes minutes on two cores.
SIZES: dict[str, dict[str, str]] = {
    "tiny": {
        "ebm_purification": "--nf 8 --batches 16 --steps 2",
        "ddpm_purification": "--networks small --batches 4 --steps 2 --calls 2 --time-steps 4",
        "ebm_training": "--nf 8 --batches 8 --chain-steps 2 --updates 1",
        "classifier_training": "--classifiers hlb_xs --batches 8 --updates 1",
        "friends_generation": "--classifiers hlb_xs --batches 8 --steps 2",
        "gradient_matching": "--classifiers hlb_xs --poisons 4 --restarts 2",
        "linear_heads": "--heads 3 --rows 40 --features 16 --epochs 2",
        "epic_selection": "--rows 200 --shares 0.1",
        "scaling": "--images 4 8 --steps 1 2 --nf 4 8 --width 4 --resolutions 16 --widths 32",
        "whole_jobs": "--images 8 --sample 4 --nf 8 --unet 0 --langevin-steps 1 --ddpm-steps 1 "
        "--epoch-of hlb_xs --training-of hlb_xs --epochs 1 --chain-steps 1 --train-batch 4 "
        "--updates 2",
    },
    "cpu": {
        "ebm_purification": "--nf 128 32 --batches 64 128 --steps 16",
        "ddpm_purification": "--networks small --batches 64 128 --steps 16",
        "ebm_training": "--nf 128 32 --batches 32 --chain-steps 10 --updates 2",
        "classifier_training": "--classifiers resnet18 hlb_s --batches 128 --updates 2",
        "friends_generation": "--classifiers resnet18 --batches 128 --steps 2",
        "gradient_matching": "--classifiers resnet18 hlb_s --restarts 4",
        "linear_heads": "--heads 20 --epochs 5",
        "epic_selection": "--rows 5000 --shares 0.1",
        "scaling": "--images 64 128 256 --steps 4 8 16 --nf 16 32 64 128 --widths 32 64 128 "
        "--resolutions 16 32 64",
    },
    # The whole jobs first: a machine may be lent for less time than all of them take.
    "gpu": {
        "whole_jobs": "--enough 30 --sample 512",
        "ebm_purification": "--nf 128 --batches 128 2048 --steps 20",
        "ddpm_purification": "--networks 128 --batches 512 --steps 10",
        "ebm_training": "--nf 128 --batches 128 --chain-steps 100 --updates 3",
        "classifier_training": "--classifiers resnet18 --batches 128 512 --updates 20",
        "friends_generation": "--classifiers resnet18 --batches 1024 --steps 10",
        "gradient_matching": "--classifiers resnet18 --poisons 100 --restarts 8",
        "linear_heads": "--heads 20 100 --epochs 10",
        "epic_selection": "--rows 5000 --shares 0.1",
        "scaling": "--images 2048 4096 8192 --steps 8 16 32 --nf 32 64 128 256 --width 128 "
        "--widths 32 64 128 --resolutions 16 32 64 --batch 2048",
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
    made.add_argument("--no-profile", action="store_true", help="do not name costly operations")
    made.add_argument("--one-process", action="store_true", help="no fresh interpreter for each")
    made.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON files")
    made.add_argument("--page", type=Path, default=HERE.parent / "docs" / "speed.md")
    arguments = made.parse_args()
    kind = torch.device(arguments.device).type
    size = arguments.size or ("gpu" if kind == "cuda" else "cpu")
    failed = []
    for name, options in SIZES[size].items():
        if arguments.only and name not in arguments.only:
            continue
        # What a GPU gave stands beside what a CPU gave.
        file = f"{name}.json" if kind == "cpu" else f"{name}_{kind}.json"
        command = [str(HERE / f"{name}.py"), *options.split(), *_shared(name, arguments)]
        command += ["--out", str(arguments.out / file)]
        if not _run(command, arguments.one_process):
            failed.append(name)
    write_page(arguments.out, arguments.page)
    print(f"\nwritten: {arguments.page}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _shared(name: str, arguments: argparse.Namespace) -> list[str]:
    """Return the options that all benchmarks take."""
    options = ["--device", arguments.device, "--repeats", arguments.repeats]
    if name != "epic_selection":  # which is on one thread by definition
        options += ["--threads", arguments.threads]
    if arguments.no_memory or name == "scaling":
        options.append("--no-memory")
    return options if arguments.no_profile else [*options, "--profile"]


def _run(command: list[str], one_process: bool) -> bool:
    """Run a script with its options; return whether it succeeded."""
    if not one_process:
        return not subprocess.run([sys.executable, *command], check=False).returncode
    before, sys.argv = sys.argv, command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            print(stop, file=sys.stderr)
        return not stop.code
    except Exception:  # noqa: BLE001 (the other scripts are run all the same)
        traceback.print_exc()
        return False
    finally:
        sys.argv = before
    return True


if __name__ == "__main__":
    main()
