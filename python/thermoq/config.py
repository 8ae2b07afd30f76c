"""Settings from a YAML file and from flags.

`load_config` reads the file, lays the flags over it and turns whatever is wrong into one line that
names the file, the line and the key (or the flag).
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from thermoq.errors import UsageError
from thermoq.layer_rules import LayerRule
from thermoq.settings import QuantizationConfig
from thermoq.terms import PHASES
from thermoq.thermodynamic_settings import (
    OptimizationSettings,
    SmoothingSettings,
    ThermodynamicSettings,
    ValidationSettings,
)
from thermoq.yaml_source import KeyPath, dotted, read_yaml

__all__ = ["LayerRule", "QuantizationConfig", "load_config"]

# Where the value of each flag goes. `phase` and what the flags are called is in `_flag`.
_THERMODYNAMIC_KEYS = {
    "validation": ("smoothness_threshold",),
    "smoothing": ("interpolation", "window"),
    "optimization": (
        *("coupling", "gain_estimator", "clip_search", "row_choice"),
        *("output_correction", "sequential"),
    ),
}
_FLAGS: dict[str, KeyPath] = {
    **{key: (key,) for key in QuantizationConfig.model_fields if key not in ("thermodynamic",)},
    **{part: ("thermodynamic", part, "enabled") for part in _THERMODYNAMIC_KEYS},
    **{
        key: ("thermodynamic", part, key)
        for part, keys in _THERMODYNAMIC_KEYS.items()
        for key in keys
    },
}

_SIZE_KEYS = ("bit_width", "target_bits", "max_size")  # of which one run has one


def load_config(
    source: QuantizationConfig | os.PathLike[str] | None,
    overrides: Mapping[str, object] | None = None,
) -> QuantizationConfig:
    """Return the settings of a YAML file (or of a configuration) with flags laid over them.

    `overrides` has flag names with underscores (`bit_width`, `smoothness_threshold`,
    `validation`, `phase`, ...); None or an empty list means not given. Raises UsageError.
    """
    settings: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {}
    if isinstance(source, QuantizationConfig):
        settings = source.model_dump(exclude_unset=True)
    elif isinstance(source, os.PathLike):
        settings, lines = _settings_of(Path(source))
    elif source is not None:
        raise UsageError(
            f"config: expected a QuantizationConfig or the path of a YAML file, got {_got(source)}"
        )
    _displace(settings, overrides or {})
    flags = {
        key_path: flag
        for key_path, value, flag in _flag_values(overrides or {})
        if _put(settings, key_path, value)
    }
    try:
        config = QuantizationConfig.model_validate(settings)
    except ValidationError as error:
        path = Path(source) if isinstance(source, os.PathLike) else None
        problems = [_explain(problem, path, lines, flags) for problem in error.errors()]
        raise UsageError(min(problems)[1]) from None
    in_file = {key: f"{source}, line {line}: {dotted(key)}" for key, line in lines.items()}
    places = {**in_file, **flags}
    return config.with_places({str(key[0]): places[key] for key in places if len(key) == 1})


def _displace(settings: dict[str, Any], overrides: Mapping[str, object]) -> None:
    """Drop what the file says of a run's size if a flag says it in another way."""
    if any(overrides.get(key) is not None for key in _SIZE_KEYS):
        for key in _SIZE_KEYS:
            settings.pop(key, None)


def _settings_of(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return what stands under `quantization:` and the line of every key there."""
    document, lines = read_yaml(path)
    if document is None:
        return {}, {}
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}, line 1: expected a mapping with the key quantization, got {_got(document)}"
        )
    for key in document:
        if key != "quantization":
            known = key in QuantizationConfig.model_fields
            hint = "settings go under quantization:" if known else "expected quantization"
            raise UsageError(f"{path}, line {lines[(key,)]}: unknown key '{key}' ({hint})")
    settings = document.get("quantization")
    if settings is None:
        return {}, {}
    if not isinstance(settings, dict):
        where = f"{path}, line {lines[('quantization',)]}"
        raise UsageError(f"{where}: quantization: expected a mapping, got {_got(settings)}")
    return settings, {key[1:]: line for key, line in lines.items() if len(key) > 1}


def _flag_values(overrides: Mapping[str, object]) -> list[tuple[KeyPath, object, str]]:
    """Return (key, value, flag) of each override that was given; later ones win."""
    values: list[tuple[KeyPath, object, str]] = []
    phase = overrides.get("phase")
    if phase is not None:
        if phase not in PHASES:
            raise UsageError(f"--phase: expected {', '.join(PHASES)}, got {_got(phase)}")
        values += [
            (_FLAGS["smoothing"], phase != "baseline", "--phase"),
            (_FLAGS["optimization"], phase == "optimize", "--phase"),
        ]
    for name, value in overrides.items():
        if name == "phase" or value is None or (isinstance(value, (list, tuple)) and not value):
            continue
        if name not in _FLAGS:
            raise UsageError(f"unknown setting '{name}'{_suggestion(name, _FLAGS)}")
        flag = "--component" if name == "components" else f"--{name.replace('_', '-')}"
        values.append((_FLAGS[name], _plain(value), flag))
    return values


def _plain(value: object) -> object:
    """Return NumPy's scalars, in lists and mappings too, as Python's own, and paths as strings."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    numpy = sys.modules.get("numpy")  # not loaded: then it is none of them
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def _put(settings: dict[str, Any], key_path: KeyPath, value: object) -> bool:
    """Set a nested value; False where the file has no mapping on the way (an error of its own)."""
    section = settings
    for key in key_path[:-1]:
        if section.get(str(key)) is None:
            section[str(key)] = {}
        section = section[str(key)]
        if not isinstance(section, dict):
            return False
    section[str(key_path[-1])] = value
    return True


# From pydantic's errors to one line.

_KINDS = {"model_type": "a mapping", "tuple_type": "a list"}


def _explain(
    problem: ErrorDetails, path: Path | None, lines: dict[KeyPath, int], flags: dict[KeyPath, str]
) -> tuple[int, str]:
    """Return the line (0 for a flag) and the message of one of pydantic's errors."""
    context = problem.get("ctx", {})
    loc = problem["loc"] + context.get("at", ())
    key_path, expected = _described(loc)
    line, where = 0, ""
    for length in range(len(key_path), -1, -1):  # the closest key that stands somewhere
        if key_path[:length] in flags:
            where = flags[key_path[:length]]
        elif key_path[:length] in lines or length == 0:
            line = lines.get(key_path[:length], 1)
            where = f"{path}, line {line}" if path else "configuration"
        if where:
            break
    if problem["type"] == "extra_forbidden":
        return line, f"{where}: unknown key '{dotted(key_path)}'{_unknown_key_hint(key_path)}"
    if problem["type"] == "expected":
        expected = problem["msg"]
    elif len(key_path) == len(loc):
        expected = _KINDS.get(problem["type"], expected)
    got = "nothing" if problem["type"] == "missing" else _got(context.get("got", problem["input"]))
    key = f"{dotted(key_path)}: " if key_path not in flags else ""
    return line, f"{where}: {key}expected {expected}, got {got}"


def _described(loc: tuple[int | str, ...]) -> tuple[KeyPath, str]:
    """Return the part of a pydantic location that is a key, and what is expected there.

    Locations may end in the branch of a union ("max_shard_size", "str"), which is no key.
    """
    model: type[BaseModel] | None = QuantizationConfig
    key_path: KeyPath = ()
    expected = ""
    for part in loc:
        if isinstance(part, int):
            key_path = (*key_path, part)
            continue
        if model is None:
            break
        key_path = (*key_path, part)
        info = model.model_fields.get(part)
        expected = (info.description or expected) if info else expected
        model = _SECTIONS.get(part) if info else None
    return key_path, expected


_SECTIONS: dict[str, type[BaseModel]] = {
    "thermodynamic": ThermodynamicSettings,
    "validation": ValidationSettings,
    "smoothing": SmoothingSettings,
    "optimization": OptimizationSettings,
    "layers": LayerRule,
}


def _unknown_key_hint(key_path: KeyPath) -> str:
    key = str(key_path[-1])
    names = [part for part in key_path[:-1] if isinstance(part, str)]
    model = _SECTIONS[names[-1]] if names else QuantizationConfig
    at_home = _FLAGS.get(key)
    if at_home is not None and at_home[-1] == key:
        return f" (did you mean {dotted(at_home)}?)"
    return _suggestion(key, model.model_fields)


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (expected one of {', '.join(known)})"


def _got(value: object) -> str:
    """Return a value as it would stand in YAML, in a few words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {_got(item)}" for key, item in value.items()) + "}"
    else:
        text = repr(value) if isinstance(value, (str, int, float)) else " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
