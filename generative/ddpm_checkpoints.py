"""Checkpoints of noise predictors, in the layout that diffusers reads and writes.

A folder holds ``diffusion_pytorch_model.safetensors`` (or ``.bin``) and ``config.json``; a network
without pixel-unshuffle is one that diffusers loads too. Loading runs no code of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from generative.checkpoints import CONFIG
from generative.ddpm import BETA_FIRST, BETA_LAST, DDPM, TIME_STEPS
from generative.unet import DownBlock, UNetConfig, UpBlock, published
from generative.weight_files import read_weights, weights_in
from harness.core.device import channels_last
from harness.core.errors import DataError, nearest
from harness.core.files import write_aside, write_text

WEIGHTS, OLDER_WEIGHTS = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
SCHEDULE = "scheduler_config.json"
PUBLISHED_HORIZON = 250  # PureGen's; its files do not say it
# What diffusers takes where a configuration leaves it out, and ours has another default.
_DIFFUSERS = {"layers_per_block": 2, "attention_head_dim": 8, "pixel_unshuffle": 1}
# Settings that this network has one form of: the value it has, which is diffusers' default.
_FIXED: dict[str, Any] = {
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def save_ddpm(folder: Path, model: DDPM, recipe: Mapping[str, Any]) -> None:
    """Save a finished noise predictor with what it was trained on."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.unet.state_dict().items()}
    write_aside(folder / WEIGHTS, lambda aside: save_file(tensors, aside))
    fixed = {**_FIXED, "out_channels": model.config.in_channels}
    config = {"_class_name": "UNet2DModel", **fixed, **asdict(model.config)}
    config |= {"horizon": model.horizon, "trained": dict(recipe)}
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_ddpm(path: Path, device: torch.device | str = "cpu") -> DDPM:
    """Load a noise predictor.

    Args:
        path: A folder that :func:`save_ddpm` or diffusers wrote, a network's or a pipeline's; or
            one weights file, safetensors or a state dict of torch (``.pt``, ``.bin``), beside
            which ``config.json`` may lie. Without a configuration it has the shape of PureGen's
            networks, of the width that it shows. Where no ``horizon`` is given, it has learned all
            noise levels if a schedule of diffusers comes with it, and PureGen's 250 if none does.
        device: Where the network shall be.

    Raises:
        DataError: If a file is missing or corrupt, a value is not finite, the network is of another
            kind, or a tensor has another name or shape.
    """
    if (path / "unet").is_dir() and not (path / WEIGHTS).is_file():
        path = path / "unet"  # of a pipeline
    weights = weights_in(path, WEIGHTS, OLDER_WEIGHTS) if path.is_dir() else path
    tensors = {_current_name(name): tensor for name, tensor in read_weights(weights).items()}
    levels = _check_schedule(weights.parent)
    config, horizon = _read_config(weights.with_name(CONFIG), tensors, levels)
    model = DDPM(config, horizon)
    wanted = {name: tuple(t.shape) for name, t in model.unet.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != given:
        name = min(n for n in {*wanted, *given} if wanted.get(n) != given.get(n))
        raise DataError(
            f"{str(weights)!r} does not fit the U-Net of widths {config.block_out_channels}: "
            f"tensor {name!r} has shape {given.get(name, 'none')}, "
            f"expected {wanted.get(name, 'none')}."
        )
    model.unet.load_state_dict(tensors)
    return channels_last(model.to(device)).eval()


def _current_name(name: str) -> str:
    """Return a parameter's name in today's diffusers; attention had other ones before 0.14."""
    return re.sub(
        r"(attentions\.\d+\.)(query|key|value|proj_attn)\.",
        lambda found: f"{found[1]}{_OLD_NAMES[found[2]]}.",
        name,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise DataError(f"{str(path)!r} is no valid configuration: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"{str(path)!r} is no valid configuration: it is no mapping.")
    return raw


def _read_config(path: Path, tensors: Mapping[str, Tensor], levels: int) -> tuple[UNetConfig, int]:
    """Return shape and horizon of the network that a configuration, or its absence, stands for."""
    if not path.is_file():
        first = tensors.get("conv_in.weight")
        return published(128 if first is None else len(first)), levels
    raw = _read_json(path)
    kind = raw.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise DataError(f"{str(path)!r} is of a {kind}; only UNet2DModel is supported.")
    _check_supported(path, raw)
    known = {f.name for f in fields(UNetConfig)}
    values = _DIFFUSERS | {k: v for k, v in raw.items() if k in known}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return UNetConfig(**values), int(raw.get("horizon", levels))
    except (TypeError, ValueError) as error:
        raise DataError(f"{str(path)!r} is no valid configuration: {error}") from error


def _check_supported(path: Path, raw: Mapping[str, Any]) -> None:
    allowed = {"down_block_types": get_args(DownBlock), "up_block_types": get_args(UpBlock)}
    for key, kinds in allowed.items():
        for kind in raw.get(key) or ():
            if kind not in kinds:
                raise DataError(
                    f"{str(path)!r}: {key} has {kind!r}, which is not supported."
                    f"{nearest(str(kind), kinds)} Allowed: {', '.join(kinds)}."
                )
        if not raw.get(key):
            raise DataError(f"{str(path)!r} gives no {key}.")
    fixed = {**_FIXED, "out_channels": raw.get("in_channels", 3)}
    for key, value in fixed.items():
        if raw.get(key, value) != value:
            raise DataError(
                f"{str(path)!r}: {key} is {raw[key]!r}, which is not supported; allowed: {value!r}."
            )


def _check_schedule(folder: Path) -> int:
    """Return the noise levels that a network has learned, as far as its folder tells.

    Raises:
        DataError: If its folder, or that of the pipeline around it, names another noise schedule.
    """
    places = (folder / SCHEDULE, folder.parent / "scheduler" / SCHEDULE)
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        return PUBLISHED_HORIZON
    raw = _read_json(path)
    ours: dict[str, Any] = {
        "num_train_timesteps": TIME_STEPS,
        "beta_start": BETA_FIRST,
        "beta_end": BETA_LAST,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
    }
    for key, value in ours.items():
        if raw.get(key, value) != value:
            raise DataError(
                f"{str(path)!r}: {key} is {raw[key]!r}, which is not supported; allowed: {value!r}."
            )
    return TIME_STEPS
