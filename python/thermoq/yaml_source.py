"""YAML read as plain values, with the line that every key stands on.

PyYAML's own loading keeps neither lines nor duplicate keys. Nothing is executed: only plain
scalars, lists and mappings are taken, and no tags, anchors or aliases (which can be made to expand
without bound).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from thermoq.errors import UsageError

KeyPath = tuple[str | int, ...]

_PLAIN = "tag:yaml.org,2002:"
_SCALAR_TAGS = tuple(_PLAIN + kind for kind in ("str", "int", "float", "bool", "null"))


def dotted(key_path: KeyPath) -> str:
    """Return a key path as it is written in messages: `layers[0].match`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in key_path)
    return text.removeprefix(".")


def read_yaml(path: Path) -> tuple[Any, dict[KeyPath, int]]:
    """Return the document at `path` (None if it is empty) and the line of each key in it.

    Raises UsageError, with line and column where there is one, for what is no such file or is not
    well-formed.
    """
    try:
        loader = _Loader(path.read_bytes())
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        return (None if node is None else _value(loader, node, (), lines)), lines
    except OSError as error:
        reason = "nothing there" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"{path}: expected a YAML file, got {reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise UsageError(f"{path}{place}: malformed YAML: {what}") from None
    except yaml.YAMLError as error:  # not text at all; the message has several lines
        what = str(error).splitlines()[0]
        raise UsageError(f"{path}: malformed YAML: {what}") from None
    except RecursionError:
        raise UsageError(f"{path}: malformed YAML: brackets nested too deeply") from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(
                None, None, "expected the value itself, got an anchor or alias", event.start_mark
            )
        return super().compose_node(parent, index)


def _value(loader: _Loader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _PLAIN + "map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _unexpected(key_node, "expected a word as the key, got a list or mapping")
            key = str(key_node.value)
            here = (*path, key)
            if key in mapping:
                raise _unexpected(key_node, f"expected each key once, got {dotted(here)} again")
            lines[here] = key_node.start_mark.line + 1
            mapping[key] = _value(loader, value_node, here, lines)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == _PLAIN + "seq":
        places = [(*path, i) for i in range(len(node.value))]
        lines.update(
            (here, item.start_mark.line + 1) for here, item in zip(places, node.value, strict=True)
        )
        return [
            _value(loader, item, here, lines) for here, item in zip(places, node.value, strict=True)
        ]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node)
    raise _unexpected(node, f"expected a plain value, got the tag {node.tag}")


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if node.tag == _PLAIN + "timestamp":  # 2020-01-01: text, here
        return node.value
    if node.tag not in _SCALAR_TAGS:
        raise _unexpected(node, f"expected a plain value, got the tag {node.tag}")
    try:
        return loader.construct_object(node)
    except (ValueError, OverflowError):  # `!!int word`, or a number of thousands of digits
        raise _unexpected(node, f"expected a number, got {str(node.value)[:40]!r}") from None


def _unexpected(node: yaml.Node, what: str) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, what, node.start_mark)
