"""The README's Python lines and configuration run as they stand there."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thermoq
from thermoq.config import load_config
from thermoq.demonstration import CALIBRATION_FILE, MODEL_FOLDER

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


# Warnings of the packages that run models; ours stay errors elsewhere.
of_packages = pytest.mark.filterwarnings("ignore")


def block(language: str, with_line: str = "") -> str:
    found = [
        text
        for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        if with_line in text
    ]
    assert len(found) == 1
    return str(found[0])


def run(text: str) -> None:
    exec(compile(text, "README.md", "exec"), {})


def test_the_python_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(thermoq.__file__).parent / MODEL_FOLDER, tmp_path / "dream-7b")
    shutil.copyfile(
        Path(thermoq.__file__).parent / CALIBRATION_FILE,
        tmp_path / "dream-7b.calibration.safetensors",
    )
    monkeypatch.chdir(tmp_path)
    run(block("python", "thermoq.quantize"))
    printed = capsys.readouterr().out
    assert "transformer_blocks.0.attn1.to_q.weight 2 " in printed
    assert (tmp_path / "dream-7b-dense" / "transformer").is_dir()


@of_packages
def test_the_quantized_model_samples_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    folder = Path(thermoq.__file__).parent
    monkeypatch.chdir(tmp_path)
    calibration = folder / CALIBRATION_FILE
    settings = {"phase": "optimize", "calibration": str(calibration), "output_correction": False}
    thermoq.quantize(folder / MODEL_FOLDER, "digits-int2", bit_width=2, **settings)
    importlib.import_module("torch").manual_seed(0)
    found: dict[str, Any] = {}
    exec(compile(block("python", "digits-int2"), "README.md", "exec"), found)
    digits = found["digits"]
    assert digits.shape == (10, 1, 8, 8)
    judge = importlib.import_module("thermoq.evaluation.judge")
    classes = judge.load_judge().classes(digits.double().flatten(1).numpy().clip(-1, 1))
    assert (classes == np.arange(10)).sum() >= 8  # unguided samples of two bits


@of_packages
def test_the_quantized_language_model_fills_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    thermoq.quantize(ROOT / "tests" / "data" / "masked-lm", "dream-int2", bit_width=2)
    run(block("python", "dream-int2"))
    printed = capsys.readouterr().out
    assert "return statement leaves the current" in printed
    assert "mask" not in printed.lower()


def test_the_configuration_loads(tmp_path: Path) -> None:
    path = tmp_path / "thermoq.yaml"
    path.write_text(block("yaml"), encoding="utf-8")
    assert load_config(path).layers[1].skip
