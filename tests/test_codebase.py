"""The project's own promises: documents that match the code, stubs that match the extension."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from thermoq.cli.app import app
from thermoq.config import QuantizationConfig
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (
    *("baseline", "quantize", "calibrate", "evaluate", "compare"),
    *("inspect", "verify", "export", "demo"),
)


def flags_of(command: str) -> set[str]:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", result.output)) - {"--help"}


def test_the_stub_matches_the_extension() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_stubs"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_in_the_readme(command: str) -> None:
    assert flags_of(command) - set(re.findall(r"--[a-z][a-z-]+", README)) == set()


def test_every_flag_in_the_readme_exists() -> None:
    known = set().union(*(flags_of(command) for command in COMMANDS))
    of_others = {"--version", "--help", "--install-completion", "--preset", "--build", "--picture"}
    in_tables = set(re.findall(r"--[a-z][a-z-]+", README))
    assert in_tables - known - of_others == set()


def test_every_setting_has_a_flag_of_its_name() -> None:
    exempt = {
        "layers",
        "thermodynamic",
        "components",  # --component, once for each
    }
    keys = QuantizationConfig.model_fields.keys() - exempt
    assert {"--" + key.replace("_", "-") for key in keys} - flags_of("quantize") == set()
    assert {"--smoothness-threshold", "--validation", "--component"} <= flags_of("quantize")


def test_all_of_the_api_is_importable() -> None:
    import thermoq

    for name in thermoq.__all__:
        assert getattr(thermoq, name) is not None
    assert set(thermoq.__all__) <= set(dir(thermoq))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = thermoq.nonsense  # type: ignore[attr-defined]
