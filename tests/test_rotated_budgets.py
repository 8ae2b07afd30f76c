"""Size budgets whose errors are those of rotated matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thermoq
from conftest import Run
from reference import encode_dtype
from safetensors_files import write_safetensors
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.config import load_config
from thermoq.error_curves import measure
from thermoq.errors import InputError
from thermoq.plan import plan_component
from thermoq.progress import NoProgress
from thermoq.provenance import Stopwatch
from thermoq.rotation import Rotation
from thermoq.weights import Matrix, quantize


def with_outliers(rows: int, cols: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Weights of which one in fifty is large: what a rotation is for."""
    draw = np.random.default_rng(0)
    large = np.where(draw.random((rows, cols)) < 0.02, 10.0, 1.0)
    return (draw.standard_normal((rows, cols)) * large).astype(np.float32)


def one_matrix(folder: Path, values: np.ndarray[Any, np.dtype[np.float32]]) -> Path:
    tensor = ("F32", values.shape, encode_dtype(values, "F32"))
    write_safetensors(folder / "model.safetensors", {"blocks.0.attn.to_q.weight": tensor})
    return folder


def test_curves_are_of_the_rotated_matrix(tmp_path: Path) -> None:
    values = with_outliers(24, 256)
    (component,) = open_checkpoint(one_matrix(tmp_path, values)).components
    config = load_config(None, {"target_bits": 4.0, "rotation": "hadamard", "seed": 7})
    with MappedFiles() as files:
        plan = plan_component(component, config, files)
        (found,) = measure([plan], config, files, Stopwatch(), NoProgress()).values()
    turned = Rotation(7, 256).forward(values)
    for one in found.curve.candidates:
        weights = values if one.scheme.bit_width == 8 else turned
        matrix = Matrix(weights.reshape(-1).view(np.uint8), "F32", *weights.shape)
        assert one.squared_error == quantize(matrix, one.scheme, method="lsq")[1].squared_error
    assert found.source_energy == pytest.approx(float(np.square(values, dtype="f8").sum()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("settings", [{}, {"target_bits": 4.0}])
def test_weights_that_cannot_be_quantized_are_found_before_they_are_mixed(
    tmp_path: Path, bad: float, settings: dict[str, Any]
) -> None:
    values = with_outliers(24, 256)
    values[3, 5] = bad
    one_matrix(tmp_path, values)
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.to_q\.weight"):
        thermoq.plan_quantization(tmp_path, rotation="hadamard", **settings)


@pytest.mark.parametrize("encoding", [None, "coded", "affine"])
def test_it_is_better_on_a_real_model(
    quantized: Callable[..., Run], tmp_path: Path, encoding: str | None
) -> None:
    run = quantized("minilm", "BF16", encoding="coded")
    limit = run.report.sizes.model_bytes
    errors = []
    for rotation in ("none", "hadamard"):
        report = thermoq.quantize(
            run.source, tmp_path / rotation, max_size=limit, encoding=encoding, rotation=rotation
        )
        assert 0.99 * limit <= report.sizes.model_bytes <= limit
        assert report.budget is not None
        assert report.budget.predicted_relative_squared_error == pytest.approx(
            report.relative_squared_error, rel=0.02
        )
        errors.append(report.relative_squared_error or 1.0)
        thermoq.verify(tmp_path / rotation)
    assert {row.bit_width for row in report.layers if row.rotation} <= {2, 3, 4}
    assert not any(row.rotation for row in report.layers if row.bit_width == 8)
    assert errors[1] < 0.97 * errors[0]
