"""Linear heads: the gradient, the batch of trainings against single ones, and what they learn."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.linear_head import LinearHeads, train_heads

HEAD = Recipe(
    optimizer="adam", lr=0.01, epochs=60, schedule="multistep", milestones=(30, 45),
    label_smoothing=0.0,
)  # fmt: skip
QUICK = replace(HEAD, epochs=6, batch_size=16, lr=0.05, milestones=(3, 5))


def blobs(rows: int = 90, classes: int = 3, dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian clouds that overlap a little."""
    rng = stream(seed, "blobs")
    labels = rng.integers(0, classes, rows)
    centres = rng.normal(size=(classes, dim)) * 2
    features = centres[labels] + rng.normal(size=(rows, dim))
    return torch.from_numpy(features), torch.from_numpy(labels)


def alone(
    features: Tensor, labels: Tensor, recipe: Recipe, seed: int, start: LinearHeads, index: int
) -> tuple[Tensor, Tensor]:
    """Train one torch layer with autograd; the reference."""
    layer = torch.nn.Linear(features.shape[1], 3, dtype=features.dtype)
    layer.load_state_dict({"weight": start.weight[index], "bias": start.bias[index]})
    bias_decay = 0.0 if recipe.decayed == "weights" else recipe.weight_decay
    groups = [
        {"params": [layer.weight], "weight_decay": recipe.weight_decay},
        {"params": [layer.bias], "weight_decay": bias_decay},
    ]
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(groups, lr=recipe.lr)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones))
    rng = stream(seed, "head")
    for _ in range(recipe.epochs):
        for batch in torch.from_numpy(rng.permutation(len(features))).split(recipe.batch_size):
            loss = F.cross_entropy(
                layer(features[batch]), labels[batch], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return layer.weight.detach(), layer.bias.detach()


@pytest.mark.parametrize("recipe", [
    QUICK,
    replace(QUICK, label_smoothing=0.2, weight_decay=0.0),
    replace(QUICK, optimizer="sgd", momentum=0.5),
    replace(QUICK, optimizer="sgd", momentum=0.5, nesterov=False, decayed="weights"),
])  # fmt: skip
def test_heads_trained_together_are_torch_layers_trained_alone(recipe: Recipe) -> None:
    sets = [blobs(seed=s) for s in range(4)]
    features, labels = (torch.stack(parts) for parts in zip(*sets, strict=True))
    rng = stream(9)
    start = LinearHeads(
        torch.from_numpy(rng.normal(size=(4, 3, 5))), torch.from_numpy(rng.normal(size=(4, 3)))
    )
    rngs = [stream(s, "head") for s in range(4)]
    together = train_heads(features, labels, 3, recipe, rngs, initial=start)
    for index in range(4):
        weight, bias = alone(features[index], labels[index], recipe, index, start, index)
        torch.testing.assert_close(together.weight[index], weight, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(together.bias[index], bias, rtol=1e-9, atol=1e-10)
    assert not torch.equal(together.weight, start.weight)


def test_a_head_of_many_is_the_head_alone_in_single_precision() -> None:
    features, labels = blobs()
    features = features.float()
    many = train_heads(features, labels, 3, QUICK, [stream(s) for s in range(5)])
    one = train_heads(features, labels, 3, QUICK, [stream(3)])
    torch.testing.assert_close(many.weight[3:4], one.weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(many.weight[2], many.weight[3], atol=1e-2)


def test_rows_of_shared_features_are_a_set_of_their_own() -> None:
    features, labels = blobs()
    rows = torch.stack([torch.arange(0, 40), torch.arange(50, 90)])
    shared = train_heads(features, labels, 3, QUICK, [stream(0), stream(1)], rows=rows)
    own = train_heads(features[rows], labels[rows], 3, QUICK, [stream(0), stream(1)])
    torch.testing.assert_close(shared.weight, own.weight)
    torch.testing.assert_close(shared.bias, own.bias)
    one_label_each = train_heads(
        features[rows], labels[rows][:1].expand(2, -1), 3, QUICK, [stream(0), stream(1)]
    )
    torch.testing.assert_close(shared.weight[0], one_label_each.weight[0])


def test_the_same_generator_gives_the_same_bytes() -> None:
    features, labels = blobs()
    first, again = (train_heads(features, labels, 3, QUICK, [stream(0)]) for _ in range(2))
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)


def test_a_head_learns_clouds_apart_and_finds_the_penalised_optimum() -> None:
    features, labels = blobs(rows=200)
    recipe = replace(
        HEAD, optimizer="sgd", epochs=300, batch_size=200, lr=0.1, weight_decay=0.01, milestones=()
    )
    heads = train_heads(features, labels, 3, recipe, [stream(0)])
    logits = heads.logits(features)
    assert logits.shape == (1, 200, 3)
    assert float((logits[0].argmax(1) == labels).double().mean()) > 0.9
    # At the optimum the gradient of the loss is minus that of the penalty.
    error = logits[0].softmax(1) - F.one_hot(labels, 3)
    gradient = error.T @ features / 200 + 0.01 * heads.weight[0]
    assert float(gradient.abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3, 4, 5)}, "S = 2 heads"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, "labels are"),
        ({"labels": torch.full((90,), 3)}, r"labels must lie in 0\.\.2"),
        ({"rows": torch.zeros(2, 0, dtype=torch.int64)}, "n > 0"),
        ({"rows": torch.full((2, 3), 90)}, r"rows must lie in 0\.\.89"),
        ({"recipe": replace(QUICK, optimizer="sgd", lr=1e300)}, "diverged"),
    ],
)
def test_what_cannot_be_trained_is_refused(change: dict, message: str) -> None:
    features, labels = blobs()
    given = {"features": features, "labels": labels, "num_classes": 3, "recipe": QUICK}
    with pytest.raises(DataError, match=message):
        train_heads(**{**given, "rngs": [stream(0), stream(1)], **change})
