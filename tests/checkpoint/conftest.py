"""Checkpoint directories that several of these files start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors_files import (
    write_json,
    write_pipeline,
    write_safetensors,
    write_transformers_model,
    zeros,
)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "sd")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_transformers_model(tmp_path / "dream")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A component folder with a single plain file."""
    root = tmp_path / "dit"
    write_json(root / "config.json", {"_class_name": "DiTTransformer2DModel"})
    write_safetensors(root / "diffusion_pytorch_model.safetensors", {"w": zeros("F32", 2, 2)})
    return root
