"""Weights in the forms in which others publish them; files that are none, or would run code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from generative.checkpoints import load_ebm
from generative.ddpm import DDPM
from generative.ddpm_checkpoints import load_ddpm, save_ddpm
from generative.ebm import EBM, EBMConfig
from generative.unet import UNetConfig
from generative.weight_files import read_weights
from harness.core.errors import DataError
from harness.core.files import write_arrays


def network(nf: int = 8, patch_size: int = 1) -> EBM:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return EBM(EBMConfig(nf=nf, patch_size=patch_size))


def same(model: EBM, other: EBM) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return model.config == other.config and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("config", [True, False])
def test_an_older_export_of_an_energy_network(tmp_path: Path, config: bool) -> None:
    model = network()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    if config:
        (tmp_path / "config.json").write_text('{"nf": 8, "patch_size": 1}')
    assert same(load_ebm(tmp_path), model)


@pytest.mark.parametrize("wrap", [dict, lambda tensors: {"model": tensors, "epoch": 3}])
def test_a_training_of_the_reference_shows_its_shape(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]
) -> None:
    model = network(12, patch_size=2)
    torch.save(wrap(model.state_dict()), tmp_path / "ebm_epoch_200.pt")
    assert same(load_ebm(tmp_path / "ebm_epoch_200.pt"), model)


def test_new_files_come_before_older_ones(tmp_path: Path) -> None:
    torch.save(network(16).state_dict(), tmp_path / "pytorch_model.bin")
    save_file(network(8).state_dict(), tmp_path / "model.safetensors")
    assert load_ebm(tmp_path).config.nf == 8


def test_an_older_export_of_a_noise_predictor(tmp_path: Path) -> None:
    shape = UNetConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=8)
    model = DDPM(shape, 100)
    save_ddpm(tmp_path, model, {})
    next(tmp_path.glob("*.safetensors")).unlink()
    torch.save(model.unet.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    loaded = load_ddpm(tmp_path)
    assert loaded.horizon == 100
    assert torch.equal(loaded.unet.conv_in.weight, model.unet.conv_in.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.pt"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    tensors = network().state_dict()
    tensors["block3.c1.bias"][2] = value
    path = tmp_path / name
    if name == "w.npz":
        write_arrays(path, {key: tensor.numpy() for key, tensor in tensors.items()})
    elif name == "w.pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    with pytest.raises(DataError, match=r"'block3\.c1\.bias' holds values that are not finite"):
        read_weights(path)
    if name != "w.npz":
        with pytest.raises(DataError, match="not finite"):
            load_ebm(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_a_file_without_named_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match="no named tensors"):
        load_ebm(tmp_path / "w.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"block1.c1.weight": Payload()}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        load_ebm(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
