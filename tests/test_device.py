"""Where and in which precision networks compute."""

from __future__ import annotations

import logging

import pytest
import torch

from harness.core import device
from harness.core.device import pick_device, pick_dtype
from harness.core.errors import UsageError

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
