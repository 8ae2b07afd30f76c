"""How a run was started, for its report: what was typed, and what a next command repeats."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thermoq.settings import QuantizationConfig

Verb = Literal["baseline", "quantize"]

# Settings that the advised next command gives anew, or that are the verb itself.
_GIVEN_ANEW = ("bit_width", "num_time_groups", "phase")


@dataclass(frozen=True)
class Invocation:
    """The `verb`, the line that was `typed`, and the flags, as words, that are `carried` over."""

    verb: Verb
    typed: str
    carried: tuple[str, ...] = ()


def from_python(
    verb: Verb,
    model: Path | str,
    output: Path | str,
    config: object,
    settings: Mapping[str, object],
) -> Invocation:
    """Describe a call of the Python API; settings that no flag can express are not carried.

    Of a configuration that is no file they are those of its own keys, not of its sections.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    arguments = [repr(str(model)), repr(str(output))]
    carried: list[str] = []
    if isinstance(config, (str, Path)):
        arguments.append(f"config={str(config)!r}")
        carried += ["--config", str(config)]
    arguments += [f"{key}={value!r}" for key, value in given.items()]
    for key, value in {**_set_in(config), **given}.items():
        flag = "--" + key.replace("_", "-")
        if key == "components" and isinstance(value, (list, tuple)):
            carried += [word for name in value for word in ("--component", str(name))]
        elif isinstance(value, bool):
            carried.append(flag if value else flag.replace("--", "--no-", 1))
        elif key not in _GIVEN_ANEW and isinstance(value, (str, int, float, Path)):
            carried += [flag, str(value)]
    return Invocation(verb, f"thermoq.{verb}({', '.join(arguments)})", tuple(carried))


def _set_in(config: object) -> dict[str, object]:
    """Return what is set in a configuration that is an object, by key."""
    if not isinstance(config, QuantizationConfig):
        return {}
    values = {key: getattr(config, key) for key in config.model_fields_set}
    return {key: values[key] for key in sorted(values) if values[key] is not None}


def from_command_line(verb: Verb, words: list[str], carried: list[str]) -> Invocation:
    """Describe a run of `thermoq`; `words` are all that followed it."""
    return Invocation(verb, shlex.join(["thermoq", *words]), tuple(carried))
