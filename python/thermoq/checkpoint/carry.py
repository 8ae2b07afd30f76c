"""The rest of a checkpoint's directory: copied as it is, but for the components' config.json."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from thermoq.checkpoint.layout import Checkpoint
from thermoq.checkpoint.strict_json import JsonObject
from thermoq.checkpoint.untrusted import reading

CONFIG_NAME = "config.json"
QUANTIZATION_KEY = "quantization_config"


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
        with reading(source):
            open(source, "rb").close()  # tells an unreadable source from a full target
        shutil.copyfile(source, destination)
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


def _config_path(component: str) -> Path:
    return Path(component, CONFIG_NAME)
