"""Which code a component consists of, so that what older code made is not taken for its own."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from harness.core.files import file_digest

# What a component imports of these, or of its own distribution's package, is followed. Of the
# project's, that is the folder it lies in: for the rest of it the protocol's number speaks
# (:data:`harness.core.spec.PROTOCOL`).
FOLLOWED = ("attacks", "defenses", "generative")


def code_digest(file: Path, module: str) -> str:
    """Return the SHA-256 of a module's file and of all those it is made of, with their names.

    Args:
        file: Source of the module.
        module: Its name, with the packages that it lies in.
    """
    top = module.partition(".")[0]
    own = module.rpartition(".")[0] if top == "harness" else top
    files, waiting = {module: file}, [(module, file)]
    while waiting:
        for name in _imported(*waiting.pop()):
            if name not in files and _lies_in(name, (own, *FOLLOWED)):
                source = _source(name)
                if source is not None:
                    files[name] = source
                    waiting.append((name, source))
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name} {file_digest(files[name])}\n".encode())
    return sha.hexdigest()


def _lies_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _imported(module: str, file: Path) -> Iterator[str]:
    """Yield the modules that a file imports, and what may be one: ``from a import b``."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _source(name: str) -> Path | None:
    """Return the file of a module, which is not imported; None where there is no such file."""
    top, *inner = name.split(".")
    found = find_spec(top)
    if found is None:
        return None
    for folder in found.submodule_search_locations or ():
        place = Path(folder, *inner)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if (inner or file.name == "__init__.py") and file.is_file():
                return file
    return None if inner or not found.origin else Path(found.origin)
