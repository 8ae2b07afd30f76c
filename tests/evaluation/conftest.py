"""Small models that were quantized, to be evaluated; nothing may be left in them by a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import thermoq


@pytest.fixture(scope="session")
def small_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny untrained transformer, `model`, and its 2-bit form, `quantized`."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers_models import dit

    root = tmp_path_factory.mktemp("evaluated")
    dit(root / "model")
    thermoq.quantize(root / "model", root / "quantized", threads=1, report=root / "report.json")
    return root


@pytest.fixture
def there(small_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of it."""
    shutil.copytree(small_dit, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny language model of a family, `model`, and its 2-bit form, `quantized`."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import language_checkpoints

    root = tmp_path_factory.mktemp("languages")

    def made(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            language_checkpoints.write(folder / "model", family)
            thermoq.quantize(folder / "model", folder / "quantized", threads=1)
        return folder

    return made
