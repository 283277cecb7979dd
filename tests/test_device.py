"""Where and in which precision networks compute."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.ntga import labelled
from harness.artifacts import Store
from harness.core import device
from harness.core.data import ImageSet
from harness.core.device import on_device, pick_device, pick_dtype, true_float32
from harness.core.errors import UsageError
from harness.workshop import Workshop

CPU = torch.device("cpu")


@pytest.mark.parametrize("there", [True, False])
def test_bf16_is_chosen_where_the_processor_has_it_and_no_surprise_elsewhere(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: there)
    device._warn_of_emulation.cache_clear()
    with caplog.at_level(logging.WARNING, "harness.core.device"):
        assert pick_dtype("auto", CPU) == (torch.bfloat16 if there else torch.float32)
        assert pick_dtype("fp32", CPU) == torch.float32
        assert not caplog.records
        assert pick_dtype("bf16", CPU) == pick_dtype("bf16", CPU) == torch.bfloat16
    said = [record.message for record in caplog.records]
    assert len(said) == (0 if there else 1) and all("emulates" in line for line in said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="allowed: 'cpu'"):
        pick_device("cuda")


def test_components_without_a_network_use_the_device_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_automatic", "auto")
    assert pick_device().type == "cuda"
    Workshop(Store(tmp_path), "cpu")
    images = ImageSet(np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, int), np.arange(2), 2)
    assert labelled(images).x.device == CPU  # NTGA's, whose surrogate is a kernel
    assert pick_device("cuda:1") == torch.device("cuda:1")
    Workshop(Store(tmp_path))
    assert pick_device().type == "cuda"


def test_each_gpu_computes_in_what_it_has_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cards = {0: (9, 0), 1: (7, 5)}  # an H100 and a T4
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: cards[d.index or 0])
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("auto", torch.device("cuda:1")) == torch.float32
    device._warn_of_emulation.cache_clear()
    assert pick_dtype("bf16", torch.device("cuda:0")) == torch.bfloat16
    assert not caplog.records
    assert pick_dtype("bf16", torch.device("cuda:1")) == torch.bfloat16
    assert "emulates" in caplog.text


def precisions() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.mark.usefixtures("torchs_precision")
def test_float32_is_no_tf32_for_a_while() -> None:
    before = precisions()
    assert before[0] == "tf32"  # torch's default: the reason for all this
    with pytest.raises(KeyError), true_float32():
        assert precisions() == ("ieee", "ieee")
        with true_float32():
            pass
        assert precisions() == ("ieee", "ieee")
        convolution = torch.nn.Conv2d(3, 4, 3)
        convolution(torch.rand(2, 3, 8, 8)).sum().backward()  # torch accepts the setting
        raise KeyError
    assert precisions() == before
    with true_float32(torch.bfloat16):
        assert precisions() == before
    assert torch.backends.cudnn.allow_tf32  # and the older way to ask works again


@pytest.mark.usefixtures("torchs_precision")
def test_float32_stays_until_the_last_of_two_threads_has_left() -> None:
    before, one, other = precisions(), true_float32(), true_float32()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert precisions() == ("ieee", "ieee")
    other.__exit__(None, None, None)
    assert precisions() == before


class OnCpu:
    """Stands for a tensor, and notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def pin_memory(self) -> OnCpu:
        self.asked.append("pin")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> OnCpu:
        self.asked.append((device.type, non_blocking))
        return self


def test_only_copies_to_a_gpu_are_pinned() -> None:
    values = torch.arange(3)
    assert on_device(values, "cpu") is values
    for name, asked in (("cpu", [("cpu", False)]), ("cuda:1", ["pin", ("cuda", True)])):
        tensor = OnCpu()
        assert on_device(tensor, name) is tensor  # type: ignore[arg-type]
        assert tensor.asked == asked
