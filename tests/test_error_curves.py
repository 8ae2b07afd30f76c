"""What is measured of a tensor before its scheme is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from reference import decode_dtype, encode_dtype
from safetensors_files import write_json, write_safetensors
from thermoq import error_curves
from thermoq.checkpoint import MappedFiles, StoredTensor, open_checkpoint
from thermoq.config import load_config
from thermoq.error_curves import MeasuredTensor, TensorKey, measure, sampled_rows
from thermoq.errors import InputError
from thermoq.plan import ComponentPlan, TensorPlan, plan_component
from thermoq.progress import NoProgress
from thermoq.provenance import Stopwatch
from thermoq.rotation import Rotation
from thermoq.weights import Matrix, Scheme, WeightError, as_matrix, quantize


def measured(
    folder: Path, **settings: Any
) -> tuple[ComponentPlan, dict[TensorKey, MeasuredTensor]]:
    """The plan and the curves of a checkpoint with one component."""
    config = load_config(None, {"target_bits": 4.0, **settings})
    (component,) = open_checkpoint(folder).components
    with MappedFiles() as files:
        plan = plan_component(component, config, files)
        return plan, measure([plan], config, files, Stopwatch(), NoProgress())


def whole_error(
    matrix: Matrix, scheme: Scheme, plan: TensorPlan, **settings: Any
) -> tuple[int, WeightError]:
    """The bytes of a whole matrix in a scheme, rotated as it is then, and its error."""
    rotation = replace(plan, scheme=scheme).rotation(load_config(None, settings))
    if rotation is not None:
        matrix = as_turned(matrix, rotation)
    quantized, error = quantize(matrix, scheme, method="lsq")
    return sum(array.nbytes for array in quantized.parts.values()), error


def as_turned(matrix: Matrix, rotation: Rotation) -> Matrix:
    weights = decode_dtype(matrix.data.tobytes(), matrix.dtype).astype(np.float32)
    turned = rotation.forward(weights.reshape(matrix.rows, matrix.cols))
    return Matrix(turned.reshape(-1).view(np.uint8), "F32", matrix.rows, matrix.cols)


def one_matrix(folder: Path, values: np.ndarray, name: str = "layer.weight") -> Path:
    write_json(folder / "config.json", {})
    tensors = {name: ("F32", values.shape, encode_dtype(values, "F32"))}
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("settings", [{}, {"encoding": "coded"}, {"rotation": "none"}], ids=str)
@pytest.mark.parametrize("name", ["unet", "dit", "dream", "oddities"])
def test_small_tensors_are_measured_whole(
    tmp_path: Path, name: str, settings: dict[str, str]
) -> None:
    folder = models.MAKERS[name](tmp_path / name, "BF16")
    plan, curves = measured(folder, **settings)
    part = plan.component.name
    turned = 0
    for tensor in plan.tensors:
        if tensor.scheme is None or tensor.same_as:
            assert (part, tensor.tensor.name) not in curves
            continue
        found = curves[part, tensor.tensor.name]
        with MappedFiles() as files:
            matrix = as_matrix(
                files.bytes(tensor.tensor).copy(),
                tensor.tensor.dtype,
                tensor.tensor.shape,
                tensor.layer.row_dimension,
            )
        assert tuple(one.scheme for one in found.curve.candidates) == tensor.candidates
        for one in found.curve.candidates:
            nbytes, error = whole_error(matrix, one.scheme, tensor, **settings)
            assert one.squared_error == error.squared_error
            assert one.stored_bytes == nbytes
            assert found.source_energy == pytest.approx(error.source_energy, rel=1e-6)
            turned += (
                error.squared_error != quantize(matrix, one.scheme, method="lsq")[1].squared_error
            )
    assert (turned > 0) is (settings == {})


@pytest.mark.parametrize(("shape", "row_dimension"), [((600, 70), 0), ((20, 600, 3, 2), 1)])
def test_sampled_rows_are_evenly_spaced(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], row_dimension: int
) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    data = np.frombuffer(values.tobytes(), np.uint8)
    cols = values.size // 600
    monkeypatch.setattr(error_curves, "SAMPLED_WEIGHTS", 60 * cols)
    matrix = sampled_rows(data, "F32", shape, row_dimension)
    assert (matrix.rows, matrix.cols) == (60, cols)
    rows = np.moveaxis(values, row_dimension, 0).reshape(600, cols)
    assert np.array_equal(matrix.data.view(np.float32).reshape(60, cols), rows[5::10])


def test_rows_longer_than_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_curves, "SAMPLED_WEIGHTS", 16)
    data = np.zeros(4 * 100 * 40, np.uint8)
    assert sampled_rows(data, "F32", (100, 40), 0).rows == 8


@pytest.mark.parametrize("encoding", [None, "coded"])
@pytest.mark.parametrize("shape", [(3000, 512), (64, 3000, 4, 2)])
def test_large_tensors_are_estimated(
    tmp_path: Path, shape: tuple[int, ...], encoding: str | None
) -> None:
    """Rows of very different size: the sample's energy alone would be far off."""
    rng = np.random.default_rng(1)
    transposed = len(shape) > 2
    sizes = np.exp(rng.standard_normal(3000))
    values = rng.standard_normal(shape)
    values *= sizes[None, :, None, None] if transposed else sizes[:, None]
    name = "conv_transpose.weight" if transposed else "layer.weight"
    plan, curves = measured(one_matrix(tmp_path / "in", values, name), encoding=encoding)
    found = curves["", name]
    data = np.frombuffer(encode_dtype(values, "F32"), np.uint8)
    matrix = as_matrix(data, "F32", shape, int(transposed))
    for one in found.curve.candidates:
        _, error = whole_error(matrix, one.scheme, plan.tensors[0], encoding=encoding)
        assert one.squared_error != error.squared_error
        # Streams of the sample are shorter, and a few heavy rows weigh more in them.
        rel = 0.06 if one.scheme.encoding == "trellis" else 0.04
        assert one.squared_error == pytest.approx(error.squared_error, rel=rel)
        assert found.source_energy == pytest.approx(error.source_energy, rel=1e-6)


def test_what_the_sample_has_not_is_found(tmp_path: Path) -> None:
    values = np.ones((3000, 512))
    values[1, 7] = np.inf
    folder = one_matrix(tmp_path / "in", values)
    with pytest.raises(InputError, match="0 NaN and 1 infinite"):
        measured(folder)
    values[:] = 0.0
    values[1, :8] = np.linspace(-1, 1, 8)
    _, curves = measured(one_matrix(tmp_path / "only-there", values))
    found = curves["", "layer.weight"]
    assert found.source_energy == pytest.approx((values**2).sum(), rel=1e-6)
    assert all(one.squared_error > 0.0 for one in found.curve.candidates)


def test_tensors_with_the_same_bytes_are_measured_once_and_count_as_many(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    maker.linear("blocks.0.proj", 64, 128, bias=False)
    maker.repeat("blocks.1.proj.weight", "blocks.0.proj.weight")
    maker.repeat("blocks.2.proj.weight", "blocks.0.proj.weight")
    maker.linear("blocks.3.proj", 64, 128, bias=False)
    write_json(tmp_path / "config.json", {})
    write_safetensors(tmp_path / "model.safetensors", maker.tensors)
    _, curves = measured(tmp_path)
    weights = {name: found.curve.weight for (_, name), found in curves.items()}
    assert weights == {"blocks.0.proj.weight": 3.0, "blocks.3.proj.weight": 1.0}


def test_pages_are_given_back_after_each_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.dream(tmp_path / "dream", "F32")
    in_use: list[str] = []
    events: list[tuple[str, int]] = []
    read, release = MappedFiles.bytes, MappedFiles.release

    def reading(files: MappedFiles, tensor: StoredTensor) -> np.ndarray:
        if tensor.name not in in_use:
            in_use.append(tensor.name)
        events.append((tensor.name, len(in_use)))
        return read(files, tensor)

    def releasing(files: MappedFiles, tensor: StoredTensor) -> None:
        if tensor.name in in_use:
            in_use.remove(tensor.name)
        release(files, tensor)

    monkeypatch.setattr(MappedFiles, "bytes", reading)
    monkeypatch.setattr(MappedFiles, "release", releasing)
    config = load_config(None, {"target_bits": 4.0})
    (component,) = open_checkpoint(folder).components
    with MappedFiles() as files:
        plan = plan_component(component, config, files)
        in_use.clear()
        events.clear()
        measure([plan], config, files, Stopwatch(), NoProgress())
    assert len(events) > 10
    assert in_use == []
    assert max(count for _, count in events) == 1


def test_weights_that_cannot_be_quantized_are_named(tmp_path: Path) -> None:
    values = np.zeros((4, 16))
    values[2, 3] = np.nan
    folder = one_matrix(tmp_path / "in", values, "bad.weight")
    with pytest.raises(InputError, match=r"model\.safetensors: tensor 'bad\.weight': expected fin"):
        measured(folder)
