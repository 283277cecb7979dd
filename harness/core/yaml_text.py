"""YAML as people write it, read into plain values; nothing in it can run code."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from harness.core.errors import UsageError

_MERGE, _DATE, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("merge", "timestamp", "float"))


class _Loader(yaml.SafeLoader):
    """The safe loader, less three surprises.

    ``1e-3`` is a number (YAML 1.1 takes it for text), a date is text, and a key that stands twice
    is an error (the first value would be dropped without a word).
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and look for keys that stand twice."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != _MERGE and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        found: yaml.MappingNode = node
        return found


_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str, what: str) -> Any:
    """Return what a YAML text says: mappings with text keys, lists, text, numbers, true, null.

    No two places of the result share an object, whatever anchors the text has.

    Args:
        text: The document, or a single value.
        what: What to call it in messages, for example ``study 'a.yaml'``.

    Raises:
        UsageError: If it is no valid YAML or holds something else; names line and column.

    >>> read_yaml("{lr: 1e-3, day: 2024-01-01}", "x")
    {'lr': 0.001, 'day': '2024-01-01'}
    """
    try:
        value = yaml.load(text, _Loader)  # a subclass of SafeLoader
        return json.loads(json.dumps(value))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{what} is no valid YAML: {where}{error.problem}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{what} is no valid YAML: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} holds more than mappings, lists, text, numbers, true, false and null: {error}."
        ) from error
