"""How fast the heads of linear transfer are trained: one batched solve against one at a time.

A transfer attack's victims train softmax regressions on the same features, one per target and seed.
The straightforward side trains them one after the other: torch's linear layer, autograd, torch's
optimiser. Ours is ``train_heads``. Both take the same updates on the same rows.

    OMP_NUM_THREADS=1 python benchmarks/linear_heads.py --out linear_heads.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from _frame import STRAIGHTFORWARD, Case, Form, parser, run
from torch import Tensor, nn

from harness.core.recipe import Recipe
from harness.linear_head import LinearHeads, train_heads

CLASSES = 10


def straightforward(
    features: Tensor, labels: Tensor, recipe: Recipe, initial: LinearHeads
) -> LinearHeads:
    """Return as many heads as ``initial`` has, trained one after the other.

    Args:
        features: (N, D).
        labels: int64 (N,).
        recipe: Of Adam, as the papers' heads are trained.
        initial: S heads.
    """
    weights, biases = [], []
    for index, (weight, bias) in enumerate(zip(initial.weight, initial.bias, strict=True)):
        rng = np.random.default_rng(index)
        head = nn.Linear(features.shape[1], CLASSES).to(features)
        head.load_state_dict({"weight": weight, "bias": bias})
        betas = (recipe.momentum, 0.999)
        adam = torch.optim.Adam(
            head.parameters(), lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay
        )
        for epoch in range(recipe.epochs):
            order = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
            batches = torch.split(order, recipe.batch_size)
            for number, rows in enumerate(batches):
                progress = (epoch + (number + 1) / len(batches)) / recipe.epochs
                for group in adam.param_groups:
                    group["lr"] = recipe.rate(progress, epoch)
                smoothing = recipe.label_smoothing
                loss = F.cross_entropy(
                    head(features[rows]), labels[rows], label_smoothing=smoothing
                )
                adam.zero_grad()
                loss.backward()
                adam.step()
        weights.append(head.weight.detach())
        biases.append(head.bias.detach())
    return LinearHeads(torch.stack(weights), torch.stack(biases))


def batched(features: Tensor, labels: Tensor, recipe: Recipe, initial: LinearHeads) -> LinearHeads:
    """Return the same heads, trained at once."""
    rngs = [np.random.default_rng(index) for index in range(len(initial.weight))]
    return train_heads(features, labels, CLASSES, recipe, rngs, initial=initial)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per number of heads."""
    for heads in arguments.heads:
        yield _case(heads, arguments)


def _case(heads: int, arguments: argparse.Namespace) -> Case:
    source = torch.Generator().manual_seed(arguments.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source).to(arguments.device)

    features = normal(arguments.rows, arguments.features).relu()
    labels = torch.randint(CLASSES, (arguments.rows,), generator=source).to(arguments.device)
    initial = LinearHeads(0.05 * normal(heads, CLASSES, arguments.features), normal(heads, CLASSES))
    recipe = replace(Recipe.presets["linear_40"], epochs=arguments.epochs)

    def check() -> dict[str, float | bool | str]:
        """Compare the weights that both end with, in float64."""
        exact = LinearHeads(initial.weight.double(), initial.bias.double())
        expected, found = (
            form(features.double(), labels, recipe, exact) for form in (straightforward, batched)
        )
        error = float((found.weight - expected.weight).abs().max() / expected.weight.abs().max())
        return {"weight error, float64": error, "equal": error < 1e-6}

    # A profile of all epochs of many heads takes minutes and gigabytes.
    brief = replace(recipe, epochs=min(2, recipe.epochs))
    forms = [
        Form(
            side, lambda form=form: form(features, labels, recipe, initial), heads,
            brief=lambda form=form: form(features, labels, brief, initial),
            brief_count=heads * brief.epochs / recipe.epochs,
        )
        for side, form in ((STRAIGHTFORWARD, straightforward), ("ours", batched))
    ]  # fmt: skip
    return Case(f"{heads} heads on {arguments.features} features", "head", forms, check)


def main() -> None:
    """Compare the sides for each number of heads."""
    made = parser(__doc__)
    made.add_argument("--heads", type=int, nargs="+", default=[20], help="trained at once")
    made.add_argument("--rows", type=int, default=500, help="that each is trained on")
    made.add_argument("--features", type=int, default=512, help="width of the frozen network")
    made.add_argument("--epochs", type=int, default=40, help="the published number is 40")
    run("linear_heads", made, cases)


if __name__ == "__main__":
    main()
