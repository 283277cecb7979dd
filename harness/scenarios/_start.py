"""A victim's network made of pretrained weights."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from harness.core.errors import DataError
from harness.core.seeds import subseed
from harness.training import Predictor


def network_of(start: Predictor | None) -> nn.Module:
    """Return a copy of the pretrained network, whose weights can be changed.

    Raises:
        DataError: If there is none.
    """
    if start is None:
        raise DataError("the classifier names no 'pretrained' weights to start from.")
    model = copy.deepcopy(start.model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def new_head(model: nn.Module, num_classes: int, rng: np.random.Generator) -> nn.Module:
    """Give the network a plain linear head for these classes, and return the network.

    Plain: it has a bias, and its logits are not scaled, whatever the pretrained one had.
    """
    head = linear_head(model)
    model.head = fresh_head(head.in_features, num_classes, rng).to(head.weight.device)
    if hasattr(model, "scale"):
        setattr(model, "scale", 1.0)  # noqa: B010 - not a field that every module has
    return model


def fresh_head(features: int, num_classes: int, rng: np.random.Generator) -> nn.Linear:
    """Return a linear layer whose initial weights depend on ``rng`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subseed(rng))
        return nn.Linear(features, num_classes)


def linear_head(model: nn.Module) -> nn.Linear:
    """Return the linear layer that reads the features.

    Raises:
        DataError: If the network has none.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear):
        raise DataError("the network has no linear 'head' to train anew.")
    return head


def check_same_classes(model: nn.Module, num_classes: int) -> None:
    """Check that a head that is kept has the classes of the new data.

    Raises:
        DataError: If it has not.
    """
    there = linear_head(model).out_features
    if there != num_classes:
        raise DataError(
            f"the pretrained head has {there} classes, the data {num_classes}; "
            "give head: new in the scenario."
        )
