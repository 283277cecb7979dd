"""Run what would run on a GPU where there is none: tensors that have a device and no numbers.

torch's fake tensors know shape, type and device, and refuse what a GPU would refuse: operations on
tensors of two devices, numpy arrays of a tensor that lies on a GPU. What only numbers decide (a
loss, a comparison) is pretended too. So a forgotten ``.to(device)`` is found here; a wrong number,
or a kernel that does not exist, is not.

    python -m tests.pretended_gpu        # components and benchmarks; says which failed, and where
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from defenses._purify import diffusion_steps, langevin_steps, purify_images, score, snapshot_images
from generative.ddpm import DDPM, SAMPLERS, Diffusion
from generative.ddpm_training import DDPMRecipe, train_ddpm
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.ebm_training import EBMRecipe, train_ebm
from generative.unet import UNetConfig
from harness.artifacts import Store
from harness.conformance_outcomes import build_example, example_data
from harness.core import device, optimizers, seeds
from harness.core.data import ImageSet
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES, Oracle
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.linear_head import train_heads
from harness.training import Predictor, build_model, fit
from harness.workshop import Workshop

GPU = "cuda"
TYPES = {torch.bool: np.bool_, torch.uint8: np.uint8, torch.int64: np.int64}
TYPES |= {torch.float32: np.float32, torch.float64: np.float64}  # type: ignore[dict-item]
UNET = UNetConfig(norm_num_groups=8, block_out_channels=(8, 16, 16), attention_head_dim=8)

_deepcopy = copy.deepcopy


class _Torch:
    """The module, but for some names."""

    def __init__(self, **others: object) -> None:
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _numpy(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"numpy cannot read a tensor on {tensor.device}.")
    return np.full(tensor.shape, tensor.dtype == torch.bool, TYPES[tensor.dtype])


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                yield node.variable
            waiting += [following for following, _ in node.next_functions]


def _backward(tensor: Tensor, *_: object, **__: object) -> None:
    for leaf in list(_leaves(tensor)):
        leaf.grad = torch.zeros_like(leaf)


def _gradients(
    outputs: Any, inputs: Any, *_: object, create_graph: bool = False, **__: object
) -> tuple[Tensor, ...]:
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not create_graph:
        return tuple(torch.zeros_like(x) for x in wanted)
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    return tuple(x * first.sum() for x in wanted)


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], *_: object) -> nn.Module:
    """Put new parameters in the place of old ones: a fake one cannot take a real one's memory."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(change(p.detach()), p.requires_grad)
        for name, b in part._buffers.items():
            part._buffers[name] = None if b is None else change(b)
    return module


def _copied(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy with new tensors in the place of a network's: a fake one has no memory to copy."""
    memo = {} if memo is None else memo
    if isinstance(value, nn.Module):
        for p in value.parameters():
            if id(p) not in memo:
                memo[id(p)] = nn.Parameter(p.detach().clone(), p.requires_grad)
        memo |= {id(b): b.clone() for b in value.buffers() if id(b) not in memo}
    return _deepcopy(value, memo)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let there be a GPU, on which every tensor is one without numbers."""
    there = SimpleNamespace(
        is_available=lambda: True, get_device_capability=lambda device=None: (9, 0)
    )
    one_value: dict[str, Callable[..., object]] = {
        "numpy": _numpy,
        "tolist": lambda x: np.ones(x.shape).tolist(),
        "item": lambda x: 1.0 if x.is_floating_point() else 1,
        "__float__": lambda x: 1.0,
        "__int__": lambda x: 1,
        "__bool__": lambda x: True,
        "nonzero": lambda x: torch.zeros((1, x.ndim), dtype=torch.int64, device=x.device),
        "pin_memory": lambda x: x,
    }
    with ExitStack() as stack:
        patch = mock.patch.object
        for name, pretended in one_value.items():
            stack.enter_context(patch(FakeTensor, name, pretended, create=True))
        stack.enter_context(patch(device, "torch", _Torch(cuda=there)))
        generator = _Torch(Generator=lambda device: torch.Generator())  # real ones need a GPU
        stack.enter_context(patch(seeds, "torch", generator))
        stack.enter_context(patch(optimizers, "all_at_once", lambda _: {"foreach": True}))
        stack.enter_context(patch(optimizers, "all", lambda _: False, create=True))
        counts = patch(torch, "bincount", lambda x, minlength: x.new_zeros(minlength))
        stack.enter_context(counts)
        stack.enter_context(patch(torch.Tensor, "backward", _backward))
        stack.enter_context(patch(torch.autograd, "grad", _gradients))
        stack.enter_context(patch(nn.Module, "_apply", _apply))
        stack.enter_context(patch(copy, "deepcopy", _copied))
        # It gives back what is given back already, and with it ends the interpreter.
        stack.enter_context(patch(StorageWeakRef, "__del__", lambda _: None))
        stack.enter_context(patch(torch, "equal", lambda a, b: False))
        # torch asks the driver for cuDNN's kernel.
        sampled = patch(nn.functional, "grid_sample", lambda x, grid, **_: x + grid.sum())
        stack.enter_context(sampled)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        device.use_device(GPU)
        try:
            yield
        finally:
            device.use_device("auto")


def on_gpu(value: Any) -> Any:
    """Return a component, or what it is made of, with its networks on the GPU."""
    if isinstance(value, nn.Module):
        return value.to(GPU)
    if isinstance(value, tuple):
        return tuple(on_gpu(part) for part in value)
    if isinstance(value, Predictor) or hasattr(value, "poison") or hasattr(value, "purify"):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **{k: on_gpu(v) for k, v in fields.items()})
    return value


def _images() -> ImageSet:
    labels = np.arange(80) % 10
    return ImageSet(np.zeros((80, 3, 32, 32), np.uint8), labels, np.arange(80), 10)


def purifications() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield ways to purify, and trainings of the networks that do."""
    images, ids = _images().images, np.arange(80)

    def energy(dtype: torch.dtype, patch_size: int) -> object:
        model = EBM(EBMConfig(nf=8, patch_size=patch_size)).requires_grad_(False).to(GPU)
        score(images, model)
        steps = langevin_steps(FoldedEnergy(model, dtype), 3)
        list(snapshot_images(images, ids, lambda _: steps, [3, 6], 0, device=GPU))
        return purify_images(images, ids, steps, 0, device=GPU)

    def diffusion(sampler: Any) -> object:
        model = DDPM(UNET).requires_grad_(False).to(GPU)
        steps = diffusion_steps(model, Diffusion(steps=8, sampler=sampler, network_calls=4), "auto")
        return purify_images(images, ids, steps, 0, device=GPU)

    for dtype in (torch.float32, torch.bfloat16):
        for patch_size in (1, 2):
            what = f"energy network, {dtype}, patch size {patch_size}"
            yield what, lambda d=dtype, p=patch_size: energy(d, p)  # type: ignore[misc]
    for sampler in SAMPLERS:
        yield f"sampler {sampler}", lambda s=sampler: diffusion(s)  # type: ignore[misc]
    recipe = EBMRecipe(iterations=2, batch_size=8, bank_size=16, chain_steps=2)
    config = EBMConfig(nf=8)
    yield "training of an energy network", lambda: train_ebm(images, config, recipe, 0, device=GPU)
    noise = DDPMRecipe(iterations=2, batch_size=8)
    yield "training of a noise predictor", lambda: train_ddpm(images, UNET, noise, 0, device=GPU)


def _trained(classifier: Any, train: ImageSet, hooks: Sequence[Any] = ()) -> object:
    recipe = dataclasses.replace(classifier.recipe, epochs=2, batch_size=32)
    model = build_model(classifier.build, train.num_classes, train.image_shape, stream(0))
    found = fit(model, train, recipe, stream(0), hooks=hooks, device=GPU)
    return found.logits(train.images), found.features(train.images)


def _heads() -> object:
    features, labels = torch.zeros(20, 4, device=GPU), torch.zeros(20, device=GPU).long()
    recipe = Recipe(epochs=2, batch_size=8)
    return train_heads(features, labels, 3, recipe, [stream(0), stream(1)])


def classifiers(workshop: Workshop) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield trainings of all classifiers."""
    yield "heads", _heads
    for entry in CLASSIFIERS:
        classifier = build_example(CLASSIFIERS, entry, workshop)
        yield f"classifier {entry.name}", lambda c=classifier: _trained(c, _images())  # type: ignore[misc]


def components(workshop: Workshop) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the attacks and defenses with the parameters that they give as examples."""
    data = example_data(workshop)

    def defend(defense: Any) -> object:
        defense = defense.told(data.train.ids[::10]) if isinstance(defense, Oracle) else defense
        purified = on_gpu(defense).purify(data.train, stream(0))
        hooks = on_gpu(defense).hooks()
        small = CLASSIFIERS.get("hlb_xs").factory(widths=(8, 8, 8))
        return _trained(small, purified, hooks) if hooks else None

    def craft(attack: Any) -> object:
        return on_gpu(attack).poison(data.train, data.test, stream(0))

    for entry in ATTACKS:
        attack = copy.deepcopy(build_example(ATTACKS, entry, workshop))
        yield f"attack {entry.name}", lambda a=attack: craft(a)  # type: ignore[misc]
    bullseye = copy.deepcopy(build_example(ATTACKS, ATTACKS.get("bullseye_polytope"), workshop))
    crafting = dataclasses.replace(bullseye.crafting, center="convex")
    convex = dataclasses.replace(bullseye, crafting=crafting)
    yield "attack bullseye_polytope, convex", lambda: craft(convex)
    for entry in DEFENSES:
        defense = copy.deepcopy(build_example(DEFENSES, entry, workshop))
        yield f"defense {entry.name}", lambda d=defense: defend(d)  # type: ignore[misc]


def benchmarks() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the benchmarks, each with every form and check of its cases at its smallest size."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    frame, run_all = import_module("_frame"), import_module("run_all")

    def measured(script: Any, options: str) -> None:
        def run(name: str, made: Any, cases: Any) -> None:
            arguments = made.parse_args([*options.split(), "--device", GPU, "--repeats", "1"])
            for index, case in enumerate(cases(arguments)):
                frame._measure(index, case, arguments, {})

        memory = dict.fromkeys(("memory_allocated", "max_memory_allocated"), lambda device: 0)
        nothing = dict.fromkeys(("empty_cache", "reset_peak_memory_stats"), lambda *_: None)
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(script, "run", run))
            stack.enter_context(mock.patch.object(frame, "_report", lambda result: None))
            stack.enter_context(mock.patch.object(frame, "synchronize", lambda device: None))
            stack.enter_context(mock.patch.multiple(torch.cuda, **memory, **nothing))
            script.main()

    for name, options in run_all.SIZES["tiny"].items():
        script = import_module(name)
        yield f"benchmark {name}", lambda s=script, o=options: measured(s, o)  # type: ignore[misc]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Try everything; exit with the number of failures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Store(Path(folder)), "cpu")
        of_components = (*classifiers(workshop), *components(workshop))
        for what, work in (*purifications(), *of_components, *benchmarks()):
            try:
                with pretended_gpu():
                    work()
                _say(f"ok {what}")
            except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
                failed += 1
                frames = traceback.extract_tb(error.__traceback__)
                place = [f for f in frames if "site-packages" not in f.filename][-1]
                _say(f"FAILED {what}: {error} ({place.filename}:{place.lineno})")
    sys.exit(failed)


if __name__ == "__main__":
    main()
