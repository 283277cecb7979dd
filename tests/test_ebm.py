"""The energy network against golden values, its fast form against autograd, and its training."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from generative.checkpoints import load_ebm, load_training, save_ebm
from generative.diagnostics import energy_gap
from generative.ebm import EBM, EBMConfig, FoldedEnergy, folded_energy
from generative.ebm_training import EBMRecipe, train_ebm
from harness.core.errors import DataError
from harness.core.windows import inner_sums, padded_sums
from harness.datasets.shapes import Shapes

TINY = EBMRecipe(iterations=6, batch_size=8, bank_size=16, chain_steps=2)


def filled(nf: int) -> EBM:
    """A network with the parameters of the golden values: sines, sorted by name."""
    model = EBM(EBMConfig(nf=nf))
    state = model.state_dict()
    for index, name in enumerate(sorted(state)):
        tensor = state[name]
        values = np.sin(0.01 * np.arange(tensor.numel()) + index)
        fan = tensor.numel() / tensor.shape[0]
        values = values * np.sqrt(3 / fan) if tensor.ndim > 1 else 0.1 * values
        state[name] = torch.tensor(values, dtype=torch.float32).reshape(tensor.shape)
    model.load_state_dict(state)
    return model


def golden_input() -> torch.Tensor:
    x = np.sin(0.05 * np.arange(2 * 3 * 32 * 32)).reshape(2, 3, 32, 32)
    return torch.tensor(x, dtype=torch.float32)


def autograd(model: EBM, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


def test_golden_energies_and_gradient_of_the_published_width() -> None:
    model, x = filled(128), golden_input()
    assert sum(p.numel() for p in model.parameters()) == 1_053_824
    energies = model(x)[:, 0].detach().numpy()
    np.testing.assert_allclose(energies, [183.45580, 185.97267], rtol=1e-4)
    for gradient in (autograd(model, x), FoldedEnergy(model).input_gradient(x)):
        norms = gradient.flatten(1).norm(dim=1).numpy()
        np.testing.assert_allclose(norms, [12.05540, 10.80090], rtol=1e-4)
        first = [0.01991038, 0.02624095, 0.03792192, 0.04392261]
        np.testing.assert_allclose(gradient[0, 0, 0, :4].numpy(), first, rtol=1e-4)
        np.testing.assert_allclose(float(gradient[0, 1, 16, 16]), -0.01937050, rtol=1e-4)


@pytest.mark.parametrize(("nf", "count"), [(32, 66_848), (64, 264_768), (256, 4_204_800)])
def test_parameter_counts(nf: int, count: int) -> None:
    assert sum(p.numel() for p in EBM(EBMConfig(nf=nf)).parameters()) == count


@pytest.mark.parametrize("size", [16, 32, 48])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_folded_form_equals_the_plain_one(size: int, patch_size: int) -> None:
    torch.manual_seed(0)
    model = EBM(EBMConfig(nf=8, patch_size=patch_size))
    x = torch.rand(3, 3, size, size) * 2 - 1
    fast = FoldedEnergy(model)
    torch.testing.assert_close(fast.energy(x), model(x)[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(folded_energy(model, x), model(x)[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast.input_gradient(x), autograd(model, x), rtol=1e-4, atol=1e-7)


def test_sums_of_windows_fold_a_convolution_and_a_mean_exactly() -> None:
    torch.manual_seed(0)
    kernel, x = torch.randn(4, 3, 3, 3).double(), torch.randn(2, 3, 8, 8).double()
    pooled = F.avg_pool2d(F.conv2d(x, kernel, padding=1), 2)
    folded = F.conv2d(padded_sums(x), kernel / 4, stride=2)
    torch.testing.assert_close(folded, pooled, rtol=1e-13, atol=1e-13)


def test_sums_of_windows_are_transposed_to_one_another() -> None:
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    x, y = (torch.randn(2, 5, *sides).double().contiguous(**last) for sides in ((6, 8), (7, 9)))
    for sums, of, onto in ((padded_sums, x, y), (inner_sums, y, x)):
        with torch.no_grad():
            quick = sums(of)
        assert quick.is_contiguous(**last)
        torch.testing.assert_close(quick, sums(of), rtol=1e-13, atol=1e-13)
        back = inner_sums(onto) if sums is padded_sums else padded_sums(onto)
        torch.testing.assert_close((quick * onto).sum(), (of * back).sum(), rtol=1e-12, atol=0)


def test_no_gradient_on_a_gpu_goes_through_a_padded_pooling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of channels-last tensors it is wrong there: pytorch issue 188344."""
    paddings, pool = list[int](), F.avg_pool2d

    def noted(x: torch.Tensor, size: int, padding: int = 0, **others: int) -> torch.Tensor:
        paddings.append(padding)
        return pool(x, size, padding=padding, **others)

    monkeypatch.setattr(F, "avg_pool2d", noted)
    there = torch.zeros((2, 3, 4, 4), device="meta", requires_grad=True)  # as a GPU: not a CPU
    assert padded_sums(there).shape == (2, 3, 5, 5)
    assert paddings == [0]
    x = torch.randn((2, 3, 4, 4), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(inner_sums(F.pad(x, (1, 1, 1, 1))), padded_sums(x))


def test_bf16_gradient_points_the_same_way() -> None:
    model, x = filled(32), golden_input()
    exact = FoldedEnergy(model).input_gradient(x)
    low = FoldedEnergy(model, torch.bfloat16).input_gradient(x)
    assert float(torch.cosine_similarity(exact.flatten(), low.flatten(), dim=0)) > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nf", [8, 32])
def test_a_row_does_not_depend_on_the_rows_beside_it(nf: int, dtype: torch.dtype) -> None:
    energy = FoldedEnergy(filled(nf), dtype)
    x = torch.rand((70, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    gradient, energies = energy.input_gradient(x), energy.energy(x)
    for start, stop in ((0, 1), (3, 5), (7, 16), (20, 53), (69, 70)):
        assert torch.equal(energy.input_gradient(x[start:stop]), gradient[start:stop])
        assert torch.equal(energy.energy(x[start:stop]), energies[start:stop])


@pytest.mark.usefixtures("torchs_precision")
@pytest.mark.parametrize(("dtype", "setting"), [(torch.float32, "ieee"), (torch.bfloat16, "tf32")])
def test_energies_in_float32_are_not_rounded_to_tf32(
    dtype: torch.dtype, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, plain = [], F.conv2d

    def watched(*arguments: object, **options: object) -> torch.Tensor:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return plain(*arguments, **options)

    monkeypatch.setattr(F, "conv2d", watched)
    energy = FoldedEnergy(filled(8), dtype)
    energy.energy(golden_input())
    energy.input_gradient(golden_input())
    assert len(seen) > 20 and set(seen) == {setting}


def images(rows: int = 48) -> np.ndarray:
    return Shapes(kind="pood", train=rows, test=6).load().train.images


@pytest.mark.parametrize("pad", [0, 4])
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path: Path, pad: int) -> None:
    config, data, recipe = EBMConfig(nf=8), images(), replace(TINY, crop_pad=pad)
    whole = train_ebm(data, config, recipe, 3, device="cpu")
    path = tmp_path / "training.safetensors"

    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        train_ebm(
            data, config, recipe, 3, device="cpu", checkpoint=path, checkpoint_every=2,
            on_progress=stop, progress_every=5,
        )  # fmt: skip
    assert load_training(path, identity(config, recipe, 3))[1] == 4
    rest = train_ebm(data, config, recipe, 3, device="cpu", checkpoint=path)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], tensor, rtol=0, atol=0)


def identity(config: EBMConfig, recipe: EBMRecipe, seed: int) -> dict:
    return {"config": asdict(config), "recipe": asdict(recipe), "seed": seed}


def test_a_training_that_diverges_says_so_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    path, recipe = tmp_path / "training.safetensors", replace(TINY, lr=1e30, warmup=0)
    with pytest.raises(DataError, match="diverged at update 6"):
        train_ebm(images(), EBMConfig(nf=8), recipe, 0, device="cpu", checkpoint=path)
    assert not path.exists()


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    train_ebm(images(), EBMConfig(nf=8), TINY, 0, device="cpu", checkpoint=path)
    with pytest.raises(DataError, match="another seed"):
        train_ebm(images(), EBMConfig(nf=8), TINY, 1, device="cpu", checkpoint=path)


def test_crops_change_what_is_learned() -> None:
    data, cropped = images(), replace(TINY, crop_pad=4)
    whole, plain = (
        train_ebm(data, EBMConfig(nf=8), recipe, 3, device="cpu").state_dict()
        for recipe in (cropped, TINY)
    )
    assert not torch.equal(whole["block1.c1.weight"], plain["block1.c1.weight"])
    with pytest.raises(DataError, match=r"less than a side of the images, 32 px; got 32"):
        train_ebm(data, EBMConfig(nf=8), replace(TINY, crop_pad=32), 3, device="cpu")


def test_training_lowers_the_energy_of_data_below_that_of_noisy_data() -> None:
    data = images(400)
    recipe = EBMRecipe(iterations=300, batch_size=16, bank_size=200, lr=3e-3, warmup=20, ema=0.95)
    x = torch.tensor(data[:32]).float() / 127.5 - 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = energy_gap(FoldedEnergy(EBM(EBMConfig(nf=8))), x)
    after = energy_gap(FoldedEnergy(train_ebm(data, EBMConfig(nf=8), recipe, 0, device="cpu")), x)
    assert after > before + 60


def test_a_saved_network_is_loaded_with_its_shape(tmp_path: Path) -> None:
    model = filled(8)
    save_ebm(tmp_path / "ebm", model, {"name": "ebm"})
    loaded = load_ebm(tmp_path / "ebm")
    torch.testing.assert_close(loaded(golden_input()), model(golden_input()))


def test_a_published_checkpoint_without_configuration_has_the_published_shape(
    tmp_path: Path,
) -> None:
    save_file(filled(128).state_dict(), tmp_path / "model.safetensors")
    assert load_ebm(tmp_path).config.nf == 128


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    save_ebm(tmp_path, filled(8), {})
    (tmp_path / "config.json").write_text('{"nf": 16}')
    with pytest.raises(DataError, match=r"tensor 'block1.c1.bias' has shape \(8,\)"):
        load_ebm(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x80\x04K\x01."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no safetensors file"):
        load_ebm(path)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="fewer than a batch"):
        train_ebm(images()[:4], EBMConfig(nf=8), TINY, 0)
