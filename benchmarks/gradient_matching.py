"""How fast Gradient Matching is, against the straightforward form in the same run.

Both compute the gradient of the matching loss, which is all but the whole cost of a step, in the
poisons of one target, for several restarts. The straightforward side is the published way: one
restart after the other, float32, NCHW order. Ours is what the attack runs: one by one in
channels-last order, or all restarts in one pass.

    OMP_NUM_THREADS=1 python benchmarks/gradient_matching.py --out gradient_matching.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from _frame import STRAIGHTFORWARD, TF32, Case, Form, parser, run
from torch import Tensor, nn

from attacks._diff_augment import DiffAugment
from attacks._gradient_matching import Problem, prepare
from harness.core.device import channels_last
from harness.core.protocols import CLASSIFIERS
from harness.core.seeds import stream
from harness.training import build_model


def straightforward(problem: Problem, deltas: Tensor, draws: Tensor) -> Tensor:
    """Return the gradient of each restart's loss by autograd, one after the other."""
    (which,) = problem.surrogates
    found = []
    for delta, each in zip(deltas, draws, strict=True):
        delta = delta.clone().requires_grad_()
        x = problem.augment.apply(problem.base + delta, each, problem.mean)
        loss = F.cross_entropy(which.model(x), problem.labels)
        of = torch.autograd.grad(loss, which.parameters, create_graph=True)
        dot = sum((a * b).sum() for a, b in zip(of, which.wanted, strict=True))
        norm = sum(a.square().sum() for a in of).sqrt()
        found.append(torch.autograd.grad(1 - dot / norm, delta)[0])
    return torch.stack(found)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per classifier."""
    for name in arguments.classifiers:
        yield _case(name, arguments)


def _case(name: str, arguments: argparse.Namespace) -> Case:
    restarts, shape = arguments.restarts, (3, 32, 32)
    build = CLASSIFIERS.get(name).factory().build
    plain = build_model(build, 10, shape, stream(arguments.seed, "benchmark")).eval()

    def problem(model: nn.Module, dtype: torch.dtype = torch.float32) -> Problem:
        draw = np.random.default_rng(arguments.seed).random((arguments.poisons + 1, *shape))
        images = torch.from_numpy(draw).to(arguments.device, dtype)
        which = prepare(model.to(arguments.device, dtype), images[0], 3)
        labels = torch.full((arguments.poisons,), 3, device=arguments.device)
        mean = torch.full((3, 1, 1), 0.5, device=arguments.device, dtype=dtype)
        return Problem((which,), images[1:], labels, mean, DiffAugment(), arguments.poisons)

    def inputs(of: Problem) -> tuple[Tensor, Tensor]:
        rng = stream(arguments.seed)
        many = (restarts, *of.base.shape)
        deltas = torch.from_numpy(rng.normal(size=many) * 0.02).to(of.base)
        return deltas, of.augment.draw(many[:2], rng).to(arguments.device)

    def check() -> dict[str, float | bool | str]:
        """Compare the gradients of all restarts, each form's in its own order, in float64."""
        doubled = problem(copy.deepcopy(plain), torch.float64)
        expected = straightforward(doubled, *inputs(doubled))
        doubled = problem(channels_last(copy.deepcopy(plain)), torch.float64)
        found = doubled.gradient(*inputs(doubled))
        error = float((found - expected).norm() / expected.norm())
        return {"gradient error, float64": error, "equal": error < 1e-9}

    as_written = problem(copy.deepcopy(plain))
    ordered = problem(channels_last(copy.deepcopy(plain)))
    deltas, draws = inputs(as_written)

    def one_by_one() -> object:
        return [ordered.gradient(deltas[i : i + 1], draws[i : i + 1]) for i in range(restarts)]

    count = restarts * arguments.poisons
    plain_form = lambda: straightforward(as_written, deltas, draws)  # noqa: E731
    at_once = lambda: ordered.gradient(deltas, draws)  # noqa: E731
    # The attack leaves the type of its convolutions to torch.
    own = "fp32" if torch.device(arguments.device).type == "cpu" else TF32
    forms = [
        Form(STRAIGHTFORWARD, plain_form, count, precision="fp32"),
        Form("ours, one by one", one_by_one, count, precision=own),
        Form(f"ours, {restarts} at once", at_once, count, precision=own),
    ]
    what = f"Gradient Matching, {name}, {arguments.poisons} poisons, {restarts} restarts"
    return Case(what, "image and step", forms, check)


def main() -> None:
    """Compare the forms for each classifier."""
    made = parser(__doc__)
    made.add_argument("--classifiers", nargs="+", default=["resnet18", "hlb_s"], help="names")
    made.add_argument("--poisons", type=int, default=25, help="images that are perturbed")
    made.add_argument("--restarts", type=int, default=4, help="8 are published")
    run("gradient_matching", made, cases)


if __name__ == "__main__":
    main()
