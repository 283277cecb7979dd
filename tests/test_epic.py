"""EPIC: its medoids are the published ones, and it drops rows that are isolated, for good."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from defenses._facility_location import Clusters, facility_location
from defenses._gradient_proxy import gradient_proxies
from defenses.epic import Epic, class_budgets, gathered
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.training import build_model, fit
from tests.easy_images import prototypes


def golden(rows: int = 40, curve: float = 0.05) -> Tensor:
    """The proxies whose medoids were taken from submodlib's C++ code."""
    i, k = np.arange(rows)[:, None], np.arange(10)[None]
    z = torch.from_numpy(2.5 * np.sin(0.37 * (i + 1) * (k + 1) + curve * i**2))
    proxies = torch.softmax(z, 1).float()
    proxies[:, 3] -= 1
    return proxies


def dropped(found: Clusters) -> list[int]:
    return (found.sizes()[found.cluster] <= 1).nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("memory_mib", [1536, 0])
def test_medoids_gains_and_clusters_are_those_of_submodlib(memory_mib: int) -> None:
    few = facility_location(golden(), 4, memory_mib=memory_mib)
    assert few.medoids.tolist() == [33, 38, 17, 36]
    np.testing.assert_allclose(few.gains, [38.548861, 0.137111, 0.115071, 0.105926], atol=1e-5)
    assert few.sizes().tolist() == [28, 5, 3, 4]
    assert dropped(few) == []

    more = facility_location(golden(), 16, memory_mib=memory_mib)
    tie = 37  # with 29; the last of equals is taken
    assert more.medoids.tolist() == [
        33, 38, 17, 36, 10, 24, 31, 13, 22, 12, 23, tie, 20, 14, 8, 19
    ]  # fmt: skip
    gains = [
        0.084316, 0.061373, 0.057843, 0.051357, 0.047556, 0.046088,
        0.045284, 0.043970, 0.043088, 0.039071, 0.037641, 0.035424,
    ]  # fmt: skip
    np.testing.assert_allclose(more.gains[4:], gains, atol=1e-5)
    assert more.sizes().tolist() == [4, 5, 3, 3, 3, 3, 2, 3, 2, 1, 3, 2, 2, 2, 1, 1]
    assert dropped(more) == [8, 12, 19]

    other = facility_location(golden(curve=0), 8, memory_mib=memory_mib)
    assert other.medoids.tolist() == [16, 21, 19, 35, 22, 20, 29, 27]
    gains = [38.624057, 0.111815, 0.107783, 0.09935, 0.095186, 0.092003, 0.084922, 0.082775]
    np.testing.assert_allclose(other.gains, gains, atol=1e-5)
    assert other.sizes().tolist() == [17, 3, 3, 5, 3, 3, 4, 2]


def test_of_equal_rows_the_last_is_taken() -> None:
    twice = golden(6).repeat(2, 1)
    assert facility_location(twice, 4).medoids.tolist() == [6, 8, 9, 7]
    everything = facility_location(twice, 12)
    assert sorted(everything.medoids.tolist()) == list(range(12))  # no row twice, gains 0 or not
    assert everything.gains[6:].tolist() == [0.0] * 6
    assert everything.sizes().tolist() == [2] * 6 + [0] * 6  # the first of equal medoids


def plain_greedy(points: Tensor, budget: int) -> tuple[list[int], float, Tensor]:
    """Return medoids, objective and cluster sizes; in float64, all gains anew for each medoid."""
    distance = (points.double()[:, None] - points.double()[None]).norm(dim=2)
    similarity = (-distance / points.shape[1]).exp()
    best = torch.zeros(len(points), dtype=torch.float64)
    medoids: list[int] = []
    for _ in range(budget):
        gains = (similarity - best).clamp(min=0).sum(1)
        gains[medoids] = -1
        medoids.append(int(gains.argmax()))
        best = torch.maximum(best, similarity[medoids[-1]])
    clusters = similarity[:, medoids].argmax(1)
    return medoids, float(best.sum()), torch.bincount(clusters, minlength=budget)[clusters]


@pytest.mark.parametrize(("seed", "rows", "features"), [(0, 300, 10), (1, 500, 10), (2, 400, 3)])
def test_it_finds_what_plain_greedy_finds(seed: int, rows: int, features: int) -> None:
    source = torch.Generator().manual_seed(seed)
    points = torch.softmax(2 * torch.randn((rows, features), generator=source), 1)
    for budget in (rows // 10, rows // 3, rows - 1):
        ours = facility_location(points, budget)
        _, objective, sizes = plain_greedy(points, budget)
        own = ours.sizes()[ours.cluster]
        assert float(ours.gains.sum()) == pytest.approx(objective, rel=1e-7)
        assert own.sort().values.tolist() == sizes.sort().values.tolist()
        assert (own <= 1).tolist() == (sizes <= 1).tolist()


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_in_blocks_it_gives_the_same_bytes_and_never_holds_the_matrix() -> None:
    points = torch.softmax(torch.randn((900, 10), generator=torch.Generator().manual_seed(3)), 1)
    whole = facility_location(points, 90)
    with Largest() as largest:
        blocks = facility_location(points, 90, memory_mib=1)
    assert largest.elements * 16 <= 2**20 < 4 * 900**2
    assert torch.equal(whole.medoids, blocks.medoids)
    assert torch.equal(whole.gains, blocks.gains)
    assert torch.equal(whole.cluster, blocks.cluster)


def test_rows_that_are_no_numbers_and_budgets_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"1\.\.40"):
        facility_location(golden(), 41)
    with pytest.raises(DataError, match="finite"):
        facility_location(torch.full((3, 2), torch.nan), 2)


def test_budgets_have_the_exact_total_and_isolate_no_whole_class() -> None:
    counts = np.array([50, 33, 17, 0, 20])
    for seed in range(20):
        budgets = class_budgets(counts, 35, "proportional", stream(seed))
        assert budgets.sum() == 35
        assert np.all((budgets == np.ceil(counts * 35 / 120)) | (budgets == counts * 35 // 120))
    equal = class_budgets(counts, 22, "equal", stream(0))
    assert sorted(equal.tolist()) == [0, 5, 5, 6, 6]
    assert equal[3] == 0
    # Classes of one and two rows: no medoid, and one.
    assert class_budgets(np.array([1, 2, 97]), 90, "proportional", stream(0)).tolist()[:2] == [0, 1]


def test_with_a_medoid_less_than_rows_nearly_everything_goes() -> None:
    labels = np.repeat([0, 1], [40, 1])
    proxies = torch.cat([golden(), golden(1)])
    keep = gathered(proxies, labels, np.array([39, 0]), 1, 64)
    assert keep[:40].sum() == 2  # a row and the medoid that it joined
    assert keep[40]  # alone in its class
    assert gathered(proxies, labels, np.array([16, 0]), 1, 64)[:40].tolist() == [
        row not in (8, 12, 19) for row in range(40)
    ]


# In a real training

NET = HlbXs(
    widths=(8, 16, 16),
    recipe=Recipe(epochs=6, lr=0.1, batch_size=32, crop_pad=0, label_smoothing=0.0),
)


def mislabelled() -> tuple[ImageSet, np.ndarray]:
    """Four easy classes; twenty rows have the label of another one."""
    clean = prototypes(400, noise=30, seed=0)
    wrong = np.sort(np.random.default_rng(0).choice(400, 20, replace=False))
    labels = clean.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 4
    return ImageSet(clean.images, labels, clean.ids, 4), wrong


TRAIN, WRONG = mislabelled()


class Watched:
    """Hands through what a hook says, and keeps it."""

    def __init__(self, hook) -> None:
        self.hook, self.rows = hook, []

    def before_epoch(self, epoch, train, model, rng):
        self.rows.append(self.hook.before_epoch(epoch, train, model, rng))
        return self.rows[-1]

    def on_batch(self, x, rows, rng):
        return self.hook.on_batch(x, rows, rng)


def rows_per_epoch(defense: Epic) -> list[set[int]]:
    rng = stream(0, "train")
    model = build_model(NET.build, 4, TRAIN.image_shape, rng)
    (hook,) = defense.hooks()
    watched = Watched(hook)
    fit(model, TRAIN, NET.recipe, rng, hooks=[watched])
    return [set(rows.tolist()) for rows in watched.rows]


def test_a_training_loses_wrong_labels_and_never_takes_a_row_back() -> None:
    defense = Epic(subset_share=0.2, every=1, drop_after=2, stop_after=5)
    epochs = rows_per_epoch(defense)
    assert [len(rows) for rows in epochs[:2]] == [400, 400]  # before drop_after
    for before, after in pairwise(epochs[1:5]):
        assert after < before
    assert epochs[5] == epochs[4]  # from stop_after on
    gone = np.array(sorted(set(range(400)) - epochs[-1]))
    wrong_share = np.isin(WRONG, gone).mean()
    right_share = (len(gone) - np.isin(WRONG, gone).sum()) / 380
    assert wrong_share > 0.4
    assert right_share < 0.12
    assert wrong_share > 5 * right_share
    assert rows_per_epoch(defense) == epochs  # a fresh hook, the same training


def test_rounds_are_at_multiples_within_their_bounds() -> None:
    defense = Epic(every=10, drop_after=30, stop_after=60)
    assert [e for e in range(200) if defense.is_round(e)] == [30, 40, 50]
    assert Epic().purify(TRAIN, stream(0)) is TRAIN


def test_proxies_are_the_gradient_of_the_loss_at_the_logits_without_bias() -> None:
    model = build_model(NET.build, 4, TRAIN.image_shape, stream(1)).eval()
    head = torch.nn.Linear(16, 4)
    model.head = head
    few = TRAIN.take(np.arange(30))
    x = torch.tensor(few.images).float() / 255
    features = model.features(x).detach()
    labels = torch.tensor(few.labels)
    for use_bias in (False, True):
        logits = features @ head.weight.T + (head.bias if use_bias else 0)
        logits = (logits * model.scale).detach().requires_grad_()
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
        proxies = gradient_proxies(model, few, use_bias=use_bias)
        torch.testing.assert_close(proxies, logits.grad, atol=1e-5, rtol=1e-4)
    assert head.bias.abs().max() > 0  # it is still there


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"subset_share": 1.0}, "subset_share"),
        ({"every": 0}, "at least 1"),
        ({"drop_after": 5, "stop_after": 5}, "drop_after must lie"),
        ({"every": 10, "drop_after": 11, "stop_after": 19}, "no round"),
    ],
)
def test_impossible_parameters_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Epic(**wrong)
    with pytest.raises(DataError, match="less than one medoid"):
        Epic(subset_share=0.001).check(TRAIN)


def test_a_part_of_a_set_may_be_too_small_and_a_training_set_may_not() -> None:
    few = TRAIN.take(range(5))
    defense = Epic(subset_share=0.1, every=1)
    assert defense.purify(few, np.random.default_rng(0)) is few
    [hook] = defense.hooks()
    with pytest.raises(DataError, match="less than one medoid"):
        hook.before_epoch(0, few, nn.Identity(), np.random.default_rng(0))
