"""Generators that others published on the Hugging Face hub."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, UsageError

# No code. Older exports have the weights as torch pickles them, of which only tensors are read.
_FILES, _OLDER = ["*.json", "*.safetensors"], ["*.bin"]


@cache
def snapshot(repository: str, revision: str = "main") -> Path:
    """Return the folder with a repository's configurations and weights, downloaded once.

    The hub's own client keeps it under ``$HF_HOME``, and finds it there without a network.

    Args:
        repository: ``owner/name``.
        revision: Branch, tag or commit. What a branch stands for may change: a study that others
            shall repeat names a commit.

    Raises:
        UsageError: If huggingface_hub is not installed.
        DataError: If the repository cannot be had.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise UsageError(
            f"{repository!r} lies on the Hugging Face hub, whose client is not installed: pip "
            "install 'puregen-bench[hub]'; or download its config.json and safetensors into a "
            "folder and give 'path'."
        ) from None
    try:
        found = _download(hub, repository, revision, _FILES)
        if not any(found.rglob("*.safetensors")):
            found = _download(hub, repository, revision, [*_FILES, *_OLDER])
    except (OSError, ValueError) as error:  # the client's own errors are either
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"{repository!r}, revision {revision!r}, cannot be had from the hub: {reason}"
        ) from error
    return found


def _download(hub: Any, repository: str, revision: str, files: list[str]) -> Path:
    return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=files))


def weights_folder(reference: Mapping[str, Any]) -> Path:
    """Return where the files of a reference lie: its ``path``, or what it names on the hub."""
    if "hub" in reference:
        return snapshot(reference["hub"], reference["revision"])
    return Path(reference["path"])
