"""torch's optimizers without their decorators: the same numbers, and no compiler loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from harness.core import optimizers

SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "foreach": True},
    "Adam": {"lr": 0.1, "betas": (0.8, 0.99), "weight_decay": 0.01},
    "AdamW": {"lr": 0.1, "weight_decay": 0.1, "fused": True},
    "RAdam": {"lr": 0.1},
}


def walk(optimizer: type[torch.optim.Optimizer], **settings: Any) -> list[torch.Tensor]:
    """Take ten steps, with a state that is saved and loaded and a rate that falls half-way."""
    x = torch.nn.Parameter(torch.linspace(0.2, 2.0, 7))
    made = optimizer([x], **settings)
    seen = []
    for step in range(10):
        if step == 5:
            saved = made.state_dict()
            made = optimizer([x], **settings)
            made.load_state_dict(saved)
            made.param_groups[0]["lr"] = 0.03
        made.zero_grad(set_to_none=True)
        (x.sin() * torch.arange(7)).sum().backward()
        made.step()
        seen.append(x.detach().clone())
    return seen


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_torch(name: str) -> None:
    ours = walk(getattr(optimizers, name), **SETTINGS[name])
    torchs = walk(getattr(torch.optim, name), **SETTINGS[name])
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))
    assert not torch.equal(ours[0], ours[-1])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_fused_update_pairs_each_weight_with_its_own_numbers(name: str) -> None:
    """Whatever the order in memory of its gradient, and of an average that comes from a file."""
    settings = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
    found = []
    for way in ("foreach", "fused"):
        made = getattr(optimizers, name)
        weight = torch.nn.Parameter(torch.linspace(0.2, 2.0, 12).reshape(3, 4))
        optimizer = made([weight], **settings, **{way: True})
        for step in range(4):
            if step == 2:
                saved = optimizer.state_dict()
                for key, value in saved["state"][0].items():
                    if isinstance(value, torch.Tensor) and value.ndim:
                        saved["state"][0][key] = value.t().contiguous().t()
                optimizer = made([weight], **settings, **{way: True})
                optimizer.load_state_dict(saved)
            weight.grad = (weight.detach() * torch.arange(12).reshape(3, 4)).t().contiguous().t()
            assert weight.grad.stride() != weight.stride()
            optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(*found)


def test_the_fused_way_is_for_gpus() -> None:
    class OnGpu:
        is_cuda = True

    assert optimizers.all_at_once([torch.zeros(1)]) == {"foreach": True}
    assert optimizers.all_at_once([OnGpu(), OnGpu()]) == {"fused": True}  # type: ignore[list-item]
    assert optimizers.all_at_once([OnGpu(), torch.zeros(1)]) == {"foreach": True}


TRAINS = """
import sys
from harness.classifiers.hlb_xs import HlbXs
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import build_model, fit

data = Shapes(train=20, test=10).load()
rng = stream(0, "train")
model = build_model(HlbXs(widths=(8, 8, 8)).build, 10, (3, 32, 32), rng)
for optimizer in ("sgd", "adam"):
    fit(model, data.train, Recipe(epochs=1, optimizer=optimizer), rng)
print("torch" in sys.modules, "torch._dynamo" in sys.modules)
"""


def test_a_training_does_not_load_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
