"""Write the settings of the paper's studies to where the report finds them.

Run it after a change of a study of ``sweeps/paper`` or of a component's parameters::

    python -m tests.published_settings
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from harness.core.params import ComponentSpec
from harness.core.protocols import ATTACKS
from harness.report import published as module
from harness.report.published_settings import TARGET
from harness.study import read_study
from harness.sweeps import folder, path_of

FILE = Path(module.__file__).parent / "published" / "settings.json"


def settings_text() -> str:
    """Return what the file has to be: each mapping once, and each crossing as their numbers."""
    numbers: dict[str, int] = {}

    def number(mapping: dict[str, Any]) -> int:
        flat = {key: shared(value) for key, value in mapping.items()}
        return numbers.setdefault(json.dumps(flat), len(numbers))

    def shared(value: Any) -> Any:
        if isinstance(value, dict):
            return {"mapping": number(value)}
        return [shared(one) for one in value] if isinstance(value, list) else value

    def numbered(*specs: ComponentSpec) -> list[int]:
        return [number(_portable(spec.to_json())) for spec in specs]

    studies = {
        item: [
            {
                "dataset": numbered(*part.datasets),
                "scenario": numbered(part.scenario),
                "attack": numbered(*map(_untargeted, part.attacks)),
                "defense": numbered(*part.defenses),
                "classifier": numbered(*part.classifiers),
            }
            for part in read_study(path_of(f"paper/{item}")).parts
        ]
        for item in module.items()
    }
    mappings = ",\n".join(numbers)
    listed = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in studies.items())
    return f'{{"mappings": [\n{mappings}\n],\n"studies": {{\n{listed}\n}}}}\n'


def _untargeted(spec: ComponentSpec) -> ComponentSpec:
    """Return an attack with any target."""
    field = ATTACKS.get(spec.name).factory.target_field
    return spec if field is None else spec.with_params(**{field: TARGET})


def _portable(value: Any) -> Any:
    """Return a spec whose paths start from the studies' folder."""
    if isinstance(value, dict):
        return {key: _portable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_portable(one) for one in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(os.path.relpath(value, folder())).as_posix()
    return value


if __name__ == "__main__":
    FILE.write_text(settings_text(), encoding="utf-8")
