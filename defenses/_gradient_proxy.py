"""The gradient of a row's loss with respect to its logits: what its update pulls at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from harness.core.data import ImageSet
from harness.core.errors import DataError

BATCH_SIZE = 512  # it changes the speed alone


def gradient_proxies(
    model: nn.Module, train: ImageSet, *, use_bias: bool, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return softmax(logits) - onehot(label) of the stored images, in the order of the rows.

    Source: EPIC (arXiv 2210.09671) and its published code.

    Args:
        model: A classifier in evaluation mode, with its linear layer ``head``.
        train: Rows; their images are not augmented.
        use_bias: Keep the bias of the head in the logits; the published code leaves it out.
        dtype: Type of the network's activations.

    Returns:
        float32 (N, num_classes) on the model's device.

    Raises:
        DataError: If the model has no linear layer ``head`` whose bias can be left out.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear):
        raise DataError("the classifier must have a linear layer 'head'.")
    without = {"head.bias": torch.zeros_like(head.bias)} if head.bias is not None else {}
    device = head.weight.device
    labels = torch.tensor(train.labels).to(device)
    proxies = torch.empty((len(train), train.num_classes), device=device)
    with torch.inference_mode():
        for start in range(0, len(train), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            x = torch.tensor(train.images[part]).to(device).float().div_(255)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                logits = model(x) if use_bias else functional_call(model, without, (x,))
            proxies[part] = F.softmax(logits.float(), dim=1)
    rows = torch.arange(len(train), device=device)
    proxies[rows, labels] -= 1
    return proxies
