"""The paper's classifiers: size and cost of the published nets, and that each one learns."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.classifiers._hlb import FixedScaleNorm, decoupled_recipe
from harness.classifiers._resnet import basic_resnet
from harness.classifiers.airbench_learned_stem import AirbenchLearnedStem
from harness.classifiers.densenet121 import DenseNet121
from harness.classifiers.hlb_l import HlbL
from harness.classifiers.hlb_m import HlbM
from harness.classifiers.hlb_s import HlbS
from harness.classifiers.hlb_xs import HlbXs
from harness.classifiers.mobilenet_v2 import MobileNetV2
from harness.classifiers.resnet9 import ResNet9
from harness.classifiers.resnet18 import ResNet18
from harness.classifiers.resnet18_hlb import ResNet18Hlb
from harness.classifiers.resnet34 import ResNet34
from harness.classifiers.vit import ViT, _Attention
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import Epoch, build_model, fit

DATA = Shapes(train=120, test=20).load()
# Not narrower than a vector register: on processors with AVX2 only, torch 2.15 crashes in the
# gradient of a 1x1 convolution of stride 2 from 4 channels, in channels-last order.
SMALL: dict[str, Any] = {
    "airbench_learned_stem": AirbenchLearnedStem(size="tiny"),
    "densenet121": DenseNet121(growth=4, blocks=(1, 2, 2)),
    "hlb_l": HlbL(widths=(8, 16, 16)),
    "hlb_m": HlbM(widths=(8, 16, 16)),
    "hlb_s": HlbS(widths=(8, 16, 16)),
    "mobilenet_v2": MobileNetV2(width=0.125),
    "resnet18_hlb": ResNet18Hlb(width=8),
    "resnet34": ResNet34(width=8),
    "vit": ViT(width=32, mlp_width=32, layers=2, heads=4, grid=8),
}


def numbers(model: nn.Module) -> int:
    """Parameters, and the scales that airbench counts among them although they stay 1."""
    norms = [m for m in model.modules() if isinstance(m, FixedScaleNorm)]
    return sum(p.numel() for p in model.parameters()) + sum(m.num_features for m in norms)


@pytest.mark.parametrize(
    ("classifier", "parameters", "gflop"),
    [
        (ResNet18(), 11_173_962, 1.111),
        (ResNet18Hlb(), 11_173_962, 1.111),
        (ResNet34(), 21_282_122, 2.319),
        (MobileNetV2(), 2_296_922, 0.182),
        (DenseNet121(), 6_956_298, 1.777),
        (HlbS(), 1_972_816, 0.236),
        (HlbM(), 4_606_544, 0.603),
        (HlbL(), 12_721_232, 1.230),
        (ViT(), 6_327_946, 3.878),
        (AirbenchLearnedStem(size="94"), 1_972_792, 0.236),
        (AirbenchLearnedStem(size="95"), 4_606_520, 0.603),
        (AirbenchLearnedStem(size="96"), 9_918_776, 0.904),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | float) else None,
)
def test_nets_have_the_published_size_and_cost(classifier, parameters, gflop) -> None:
    """On 3x32x32 images and 10 classes; one multiplication with its addition is two FLOP."""
    with torch.device("meta"):  # shapes alone: no weights, no arithmetic
        model = classifier.build(10, (3, 32, 32)).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 32, 32))
    assert numbers(model) == parameters
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.0006)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "side", "classes"), [(3, 32, 10), (1, 64, 7)])
def test_a_net_takes_images_of_any_kind(name: str, channels: int, side: int, classes: int) -> None:
    model = build_model(SMALL[name].build, classes, (channels, side, side), stream(0)).eval()
    x = torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, features = model(x), model.features(x)
        assert logits.shape == (3, classes)
        assert features.shape == (3, model.head.in_features)
        torch.testing.assert_close(logits, model.head(features) * model.scale)
        torch.testing.assert_close(model(x[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


def reddish_and_bluish() -> tuple[ImageSet, ImageSet]:
    """Two classes of darkened shapes with more red or more blue: 80 to learn and 20 held out."""
    source = Shapes(train=100, test=10).load().train
    labels = np.arange(100) % 2
    images = source.images // 2
    images[labels == 0, 0] += 64
    images[labels == 1, 2] += 64
    both = ImageSet(images, labels, source.ids, 2)
    return both.take(np.arange(80)), both.take(np.arange(80, 100))


@pytest.mark.parametrize("name", SMALL)
def test_a_net_learns(name: str) -> None:
    train, test = reddish_and_bluish()
    rng = stream(0, "train")
    model = build_model(SMALL[name].build, 2, train.image_shape, rng)
    recipe = Recipe(
        epochs=5, batch_size=10, lr=0.1, label_smoothing=0.0, crop_pad=0, precision="fp32"
    )
    epochs: list[Epoch] = []
    predict = fit(model, train, recipe, rng, on_epoch=lambda e, _: epochs.append(e))
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    assert np.mean(predict(test.images) == test.labels) > 0.85


def test_scales_of_the_hlb_nets_stay_one_and_shifts_are_learned() -> None:
    rng = stream(0)
    model = build_model(SMALL["hlb_s"].build, 10, DATA.train.image_shape, rng)
    fit(model, DATA.train, Recipe(epochs=1, lr=0.1), rng)
    norms = [m for m in model.modules() if isinstance(m, FixedScaleNorm)]
    assert len(norms) == 7
    assert all(torch.equal(m.weight, torch.ones(m.num_features)) for m in norms)
    assert all(m.bias.abs().max() > 0 for m in norms)
    assert [m.momentum for m in norms] == [0.3, 0.3, 0.4, 0.3, 0.4, 0.3, 0.4]


def test_convolutions_of_the_hlb_nets_start_by_passing_channels_on() -> None:
    model = HlbM(widths=(8, 8, 8)).build(10, (3, 32, 32))
    conv = model.body[-2].branch[0]  # 8 to 8 channels: all of it is the identity
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(conv(x), x)


def test_the_later_convolutions_of_the_large_hlb_net_are_a_residual_branch() -> None:
    group = HlbL(widths=(8, 8, 8)).build(10, (3, 32, 32)).body[-2].eval()
    assert sum(isinstance(m, nn.Conv2d) for m in group.branch) == 2
    for conv in group.branch:
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
    x = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(group(x), nn.functional.gelu(group.entry(x)))


def test_attention_is_scaled_by_the_width_of_one_head() -> None:
    torch.manual_seed(0)
    attention = _Attention(12, 3)
    x = torch.randn(2, 5, 12)
    q, k, v = attention.project(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    scores = torch.softmax(q @ k.transpose(-1, -2) / 4**0.5, -1)
    expected = attention.out((scores @ v).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(attention(x), expected)


def test_a_residual_net_halves_the_side_three_times() -> None:
    body = basic_resnet((1, 1, 1, 1), 4, 10, 3).body[:-1]  # without the mean over positions
    assert body(torch.rand(2, 3, 32, 32)).shape == (2, 32, 4, 4)
    assert body(torch.rand(2, 3, 64, 64)).shape == (2, 32, 8, 8)


@pytest.mark.parametrize("classifier", [ResNet18(), ResNet18Hlb(width=8), ResNet34(width=8)])
def test_weights_of_the_papers_residual_nets_start_as_torchs_layers_do(classifier) -> None:
    """Uniform up to the root of one over the number of inputs; by fan-out they would be normal."""
    model = build_model(classifier.build, 10, (3, 32, 32), stream(0))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound


@pytest.mark.parametrize("classifier", [ResNet34(), MobileNetV2(), DenseNet121()])
def test_the_nets_from_scratch_have_the_papers_recipe(classifier) -> None:
    recipe = classifier.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay) == (200, 128, 5e-4)
    rates = [recipe.rate(0.5, epoch) for epoch in (0, 99, 100, 149, 150, 199)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_decoupled_numbers_are_those_of_summed_losses() -> None:
    """One step of torch's SGD on a sum over the batch, as airbench has it, and one of ours."""
    recipe = decoupled_recipe(10, 0.0153, momentum=0.85, epochs=1, batch_size=128, crop_pad=2)
    step = 1024 * (1 + 1 / (1 - 0.85))
    theirs, ours = (torch.tensor([2.0], requires_grad=True) for _ in range(2))
    rate = 10 / step
    summed = torch.optim.SGD([theirs], lr=rate, weight_decay=0.0153 * 128 / step / rate)
    mean = torch.optim.SGD([ours], lr=recipe.lr, weight_decay=recipe.weight_decay)
    theirs.grad, ours.grad = torch.tensor([128 * 0.7]), torch.tensor([0.7])
    summed.step()
    mean.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet34(width=0), "width must be at least 1; got 0"),
        (lambda: MobileNetV2(width=0), "width must be positive; got 0"),
        (lambda: DenseNet121(blocks=()), r"blocks must have at least one entry; got \(\)"),
        (lambda: DenseNet121(blocks=(1, 0)), r"blocks must be at least 1; got \(1, 0\)"),
        (lambda: HlbS(widths=(8, 0, 8)), r"widths must be at least 1; got \(8, 0, 8\)"),
        (lambda: HlbM(widths=(8, 8, -1)), "widths must be at least 1"),
        (lambda: HlbL(widths=(0, 8, 8)), "widths must be at least 1"),
        (lambda: HlbXs(stem=0), "stem must be at least 1; got 0"),
        (lambda: ResNet9(width=-1), "width must be at least 1; got -1"),
        (lambda: ResNet18Hlb(width=-1), "width must be at least 1; got -1"),
        (lambda: ViT(heads=7), "heads must divide width; got 7 and 384"),
        (lambda: ViT(layers=0), "must be at least 1"),
        (lambda: ViT().build(10, (3, 30, 32)), "got 16 for 30x32"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()
