"""YAML in which no mapping has a key twice."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

MOST_BITS = 10_000  # of an integer: Python prints none of more than 4,300 digits, which hexadecimal ones can have


class KeyTwice(ValueError):  # noqa: N818
    """A mapping has a key twice; the message names the key and both lines."""


def load_unique(text: str) -> Any:
    """Return the content of a YAML document.

    YAML forbids a key that stands twice in one mapping, but PyYAML keeps the last value and says nothing.

    Raises:
        KeyTwice: a mapping at any depth has a key twice.
        yaml.YAMLError, ValueError, RecursionError: the text is not valid YAML.
    """
    return yaml.load(text, _UniqueKeys)


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which checks each mapping as it is written: merge keys (``<<``) may repeat keys later."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, ScalarNode):
                continue  # refused later, since no mapping or list can be a key
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise KeyTwice(_twice(key_node.value, lines[key], line))
            lines[key] = line
        return node

    def construct_yaml_int(self, node: ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > MOST_BITS:
            raise ValueError(f"line {node.start_mark.line + 1} has an integer of thousands of digits")
        return number

    def _key(self, node: Node) -> Hashable:
        """Return the value of a key, so that ``0.5`` and ``0.50`` are one key, as they are in a mapping of Python."""
        if node.tag == "tag:yaml.org,2002:merge":
            return "<<"
        value: Hashable = self.construct_object(node)
        return value


def _twice(key: str, first: int, second: int) -> str:
    where = f"lines {first} and {second}" if first != second else f"line {first}"
    return f"{key!r} stands twice ({where}), and only the last one would count; remove one"


_UniqueKeys.add_constructor("tag:yaml.org,2002:int", _UniqueKeys.construct_yaml_int)
