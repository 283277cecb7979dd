"""The U-Net against golden values, and its fast paths against the plain mathematics."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from generative.ddpm import DDPM
from generative.ddpm_checkpoints import WEIGHTS, load_ddpm, save_ddpm
from generative.unet import (
    UNet,
    UNetConfig,
    _convolved,
    _FoldedUpsample,
    _Norm,
    _Upsample,
    for_inference,
    published,
)
from harness.core.errors import DataError

SMALL = UNetConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=8)
TIMES = torch.tensor(74)


def filled(model: UNet) -> UNet:
    """Give a network the parameters of the golden values: sines, sorted by name."""
    state = model.state_dict()
    for index, name in enumerate(sorted(state)):
        tensor = state[name]
        values = np.sin(0.01 * np.arange(tensor.numel()) + index)
        if tensor.ndim > 1:
            values = values * np.sqrt(3 / (tensor.numel() / tensor.shape[0]))
        else:
            scale = "norm" in name and name.endswith(".weight")
            values = 0.1 * values + scale
        state[name] = torch.tensor(values).to(tensor.dtype).reshape(tensor.shape)
    model.load_state_dict(state)
    return model.requires_grad_(False)


def golden_input() -> torch.Tensor:
    x = np.sin(0.05 * np.arange(2 * 3 * 32 * 32)).reshape(2, 3, 32, 32)
    return torch.tensor(x, dtype=torch.float32)


def random_net(config: UNetConfig) -> UNet:
    """A network of random weights none of which is zero."""
    torch.manual_seed(0)
    model = UNet(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.requires_grad_(False)


def test_golden_values_of_the_published_shape() -> None:
    model = filled(UNet(published(128)))
    assert sum(p.numel() for p in model.parameters()) == 113_673_219
    assert len(model.state_dict()) == 450
    y = model(golden_input(), TIMES)
    np.testing.assert_allclose(float(y.mean()), -0.2755706, rtol=1e-4)
    np.testing.assert_allclose(float(y.std()), 0.8418149, rtol=1e-4)
    first = [0.2774974, 0.4694506, 0.5067635, 0.5074604]
    np.testing.assert_allclose(y[0, 0, 0, :4].numpy(), first, rtol=1e-4)
    np.testing.assert_allclose(float(y[1, 2, 31, 31]), -0.6448977, rtol=1e-4)


def test_golden_values_of_the_small_shape() -> None:
    # In double precision: its groups of 4 values at 1x1 pixels make much of a rounding error.
    model = UNet(published(32)).double()
    assert sum(p.numel() for p in model.parameters()) == 7_126_275
    y = filled(model)(golden_input().double(), torch.tensor([74, 74]))
    np.testing.assert_allclose(float(y.mean()), -0.2087759, rtol=1e-5)
    np.testing.assert_allclose(float(y.std()), 2.107833, rtol=1e-5)
    first = [-0.04332104, 0.03047588, 0.2858534, 0.6664276]
    np.testing.assert_allclose(y[0, 0, 0, :4].numpy(), first, rtol=1e-4)
    np.testing.assert_allclose(float(y[1, 2, 31, 31]), -0.4089101, rtol=1e-5)


def test_parameter_count_of_the_middle_shape() -> None:
    assert sum(p.numel() for p in UNet(published(64)).parameters()) == 28_447_235


@pytest.mark.parametrize("shape", [(3, 16, 8, 8), (2, 16, 1, 1), (1, 16, 5, 3)])
def test_normalisation_equals_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = _Norm(4, shape[1], 1e-5).double()
    norm.weight.data, norm.bias.data = torch.randn(2, shape[1], dtype=torch.double)
    x = (torch.randn(shape, dtype=torch.double) * 3 + 2).requires_grad_()
    ours = norm(x, silu=True)
    plain = F.silu(F.group_norm(x, 4, norm.weight, norm.bias, 1e-5))
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    wanted = [x, norm.weight, norm.bias]
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), wanted),
        torch.autograd.grad(plain.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_one_time_for_all_equals_a_time_for_each(unshuffle: int, padding: int) -> None:
    config = replace(SMALL, pixel_unshuffle=unshuffle, downsample_padding=padding)
    model = random_net(config).double()
    x = torch.rand(3, 3, 32, 32).double()
    each = model(x, torch.tensor([74, 3, 74]))
    torch.testing.assert_close(each[::2], model(x[::2], TIMES), rtol=1e-9, atol=1e-9)
    assert each.shape == x.shape
    assert not torch.allclose(each[1], model(x[1:2], TIMES)[0], rtol=1e-3)


def test_the_wrapper_turns_blocks_of_pixels_into_channels() -> None:
    inner = replace(SMALL, in_channels=12, pixel_unshuffle=1)
    wrapped, plain = random_net(SMALL), UNet(inner)
    plain.load_state_dict(wrapped.state_dict())
    x = torch.rand(2, 3, 16, 16)
    blocks = x.reshape(2, 3, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 8, 8)
    y = plain(blocks, TIMES).reshape(2, 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3)
    torch.testing.assert_close(wrapped(x, TIMES), y.reshape(2, 3, 16, 16), rtol=1e-5, atol=1e-5)


def test_attention_equals_a_softmax_by_hand() -> None:
    attention = random_net(SMALL).mid_block.attentions[0].double()
    x = torch.rand(2, 16, 3, 3).double()
    tokens = attention.group_norm(x).flatten(2).transpose(1, 2)
    q, k, v = (p(tokens) for p in (attention.to_q, attention.to_k, attention.to_v))
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / np.sqrt(8)).softmax(-1)
        heads.append(weights @ v[..., head])
    expected = x + attention.to_out[0](torch.cat(heads, 2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=1e-9, atol=1e-9)


def test_bf16_copy_predicts_nearly_the_same() -> None:
    model = random_net(replace(SMALL, block_out_channels=(16, 32, 32)))
    x = golden_input()
    low = for_inference(model, torch.bfloat16).predict(x.bfloat16(), model.shifts(TIMES).bfloat16())
    exact = model(x, TIMES)
    assert low.dtype == torch.bfloat16
    error = (low.float() - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biases_added_beforehand_are_those_added_in_each_step(dtype: torch.dtype) -> None:
    model, x = random_net(SMALL), golden_input().to(dtype)
    with torch.no_grad():
        shifts = model.shifts(torch.tensor([3, 74])).to(dtype)
    plain, ready = for_inference(model, dtype), for_inference(model, dtype)
    together = ready.take_biases(shifts)
    assert not torch.equal(together, shifts)
    for t in range(2):
        found = ready.predict(x, together[t : t + 1])
        assert torch.equal(found, plain.predict(x, shifts[t : t + 1]))
    assert model.mid_block.resnets[0].conv1.bias is not None  # the network itself keeps its own


def test_a_folded_upsample_is_the_plain_one() -> None:
    torch.manual_seed(0)
    plain = _Upsample(6).double().requires_grad_(False)
    x = torch.randn(2, 6, 5, 8, dtype=torch.double)
    torch.testing.assert_close(_FoldedUpsample(plain)(x), plain(x), rtol=1e-12, atol=1e-12)


def test_a_convolution_of_one_pixel_is_its_centre() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(6, 4, 3, padding=1).double()
    x = torch.randn(3, 6, 1, 1, dtype=torch.double)
    found, expected = _convolved(x, layer, layer.bias), layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_norm_of_some_rows_at_a_time_is_that_of_all() -> None:
    torch.manual_seed(0)
    norm, x = _Norm(4, 32), torch.randn(40, 32, 32, 32)  # several bands of rows
    with torch.no_grad():
        plain = F.group_norm(x, 4, norm.weight, norm.bias)
        torch.testing.assert_close(norm(x), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.double, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 2**-7)]
)
@pytest.mark.parametrize("silu", [False, True])
def test_the_norm_of_a_gpu_rounds_no_more_than_its_type(
    dtype: torch.dtype, bound: float, silu: bool
) -> None:
    torch.manual_seed(0)
    norm = _Norm(4, 32).requires_grad_(False)
    norm.weight.data, norm.bias.data = torch.randn(2, 32)
    x = (3 * torch.randn(5, 32, 8, 8) + 2).to(dtype).contiguous(memory_format=torch.channels_last)
    exact = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double())
    exact = F.silu(exact) if silu else exact
    if dtype == torch.double:
        norm.double()
    found = norm._without_copies(x, silu)
    assert found.dtype == dtype and found.stride() == x.stride()
    torch.testing.assert_close(found.double(), exact, rtol=bound, atol=bound)


# Checkpoints


def diffusers_config(**changes: object) -> dict:
    """The config.json that diffusers would write for a small network; it leaves defaults in."""
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.27.2",
        "act_fn": "silu",
        "block_out_channels": [32, 64],
        "center_input_sample": False,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
        "in_channels": 3,
        "layers_per_block": 1,
        "out_channels": 3,
        "sample_size": 32,
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        **changes,
    }


def diffusers_folder(folder: Path, **changes: object) -> UNet:
    shape = {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")}
    shape |= {"up_block_types": ("UpBlock2D", "AttnUpBlock2D"), "attention_head_dim": 8}
    model = random_net(UNetConfig(block_out_channels=(32, 64), pixel_unshuffle=1, **shape))
    save_file(model.state_dict(), folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(diffusers_config(**changes)))
    return model


def test_a_folder_of_diffusers_is_loaded_with_its_defaults(tmp_path: Path) -> None:
    model = diffusers_folder(tmp_path)
    loaded = load_ddpm(tmp_path)
    assert loaded.horizon == 250
    torch.testing.assert_close(loaded.unet(golden_input(), TIMES), model(golden_input(), TIMES))


def test_a_saved_network_is_loaded_as_it_was(tmp_path: Path) -> None:
    model = DDPM(SMALL, horizon=150)
    save_ddpm(tmp_path, model, {"name": "ddpm"})
    loaded = load_ddpm(tmp_path)
    assert (loaded.config, loaded.horizon) == (SMALL, 150)
    found, saved = loaded.unet.state_dict(), load_file(tmp_path / WEIGHTS)
    assert found.keys() == saved.keys()  # the names of diffusers, without a prefix
    assert all(torch.equal(found[name], t) for name, t in model.unet.state_dict().items())


def test_a_bare_state_dict_shows_its_width(tmp_path: Path) -> None:
    model = random_net(published(32))
    torch.save(model.state_dict(), tmp_path / "diff_model_150.pt")
    loaded = load_ddpm(tmp_path / "diff_model_150.pt")
    assert loaded.config == published(32)
    assert torch.equal(loaded.unet.conv_in.weight, model.conv_in.weight)


def test_attention_weights_of_old_names_are_loaded(tmp_path: Path) -> None:
    model = diffusers_folder(tmp_path)
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {
        re.sub(r"to_(q|k|v|out\.0)\b", lambda m: new_to_old[m[0]], name): tensor
        for name, tensor in model.state_dict().items()
    }
    assert "mid_block.attentions.0.proj_attn.bias" in old
    save_file(old, tmp_path / WEIGHTS)
    assert torch.equal(
        load_ddpm(tmp_path).unet.mid_block.attentions[0].to_out[0].weight,
        model.mid_block.attentions[0].to_out[0].weight,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]},
         r"down_block_types has 'SkipDownBlock2D', which is not supported. Did you mean 'DownBlo"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu', which is not supported; allowed: 'silu'"),
        ({"out_channels": 6}, "out_channels is 6"),
        ({"block_out_channels": [32, 128]}, r"'conv_norm_out|tensor '\S+' has shape"),
        ({"block_out_channels": [32]}, "of one length"),
        ({"norm_num_groups": 7}, "must divide every width"),
        ({"_class_name": "UNet2DConditionModel"}, "only UNet2DModel"),
        ({"horizon": 5000}, "horizon must lie in 1..1000"),
    ],
)  # fmt: skip
def test_another_network_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    diffusers_folder(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        load_ddpm(tmp_path)


def test_another_noise_schedule_is_refused(tmp_path: Path) -> None:
    diffusers_folder(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"beta_schedule": "linear", "beta_end": 0.02, "clip_sample": True}))
    load_ddpm(tmp_path)
    path.write_text(json.dumps({"beta_schedule": "squaredcos_cap_v2"}))
    with pytest.raises(DataError, match="beta_schedule is 'squaredcos_cap_v2'"):
        load_ddpm(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, "model.pt"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x80\x02K\x01."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"is no safetensors file|cannot be read as tensors alone"):
        load_ddpm(tmp_path / name)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv_in.weight": Payload()}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        load_ddpm(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()
