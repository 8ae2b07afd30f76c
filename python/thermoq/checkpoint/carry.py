"""The rest of a checkpoint's directory: copied as it is, but for the components' config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from thermoq.checkpoint.layout import Checkpoint
from thermoq.checkpoint.strict_json import JsonObject
from thermoq.checkpoint.untrusted import reading

CONFIG_NAME = "config.json"
QUANTIZATION_KEY = "quantization_config"
_COPIED_AT_ONCE = 2**22  # bytes


def carry_files(
    checkpoint: Checkpoint, target: Path, configs: Mapping[str, JsonObject | None]
) -> None:
    """Copy `checkpoint.other_files` below `target` and write the components' config.json.

    `configs` has what each component's config.json shall hold, by component name; None: no file.
    """
    rewritten = {_config_path(name) for name in configs}
    for relative in checkpoint.other_files:
        if relative in rewritten:
            continue
        destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        source = checkpoint.directory / relative
        _copy(source, destination)
    for name, config in configs.items():
        if config is not None:
            destination = target / _config_path(name)
            destination.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config, indent=2, ensure_ascii=False)
            destination.write_text(text + "\n", encoding="utf-8")


def tree_bytes(directory: Path) -> int:
    """Return the bytes of all files below `directory`."""
    return sum(
        os.stat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _copy(source: Path, destination: Path) -> None:
    """Copy a file's bytes. Raises InputError for the source, OSError for the destination."""
    buffer = memoryview(bytearray(_COPIED_AT_ONCE))
    with reading(source):
        reader = open(source, "rb", buffering=0)  # noqa: SIM115 (closed below)
    with reader, open(destination, "xb") as writer:
        while True:
            with reading(source):
                count = reader.readinto(buffer)
            if not count:
                break
            writer.write(buffer[:count])


def _config_path(component: str) -> Path:
    return Path(component, CONFIG_NAME)
