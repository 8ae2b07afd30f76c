"""Models in trellis codes: what is measured, stored, exported, run and compared is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from numpy.typing import NDArray
from thermoq.checkpoint import MappedFiles
from thermoq.checkpoint.manifest import QuantizedTensor
from thermoq.checkpoint.quantized import open_quantized
from thermoq.rotation import Rotation
from thermoq.trellis import dequantize_trellis, quantize_trellis
from thermoq.weights import Matrix

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from thermoq.runtime.weights import Weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's

DIGITS = Path(thermoq.__file__).parent / "models" / "digits-dit"
LANGUAGE = Path(__file__).parents[1] / "data" / "masked-lm"
TRELLIS: dict[str, Any] = {"bit_width": 2, "encoding": "trellis", "effort": 1}
SHORT: dict[str, Any] = {"samples": 8, "steps": 4, "length": 16}

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The calibrations of both models."""
    path = tmp_path_factory.mktemp("language") / "c.safetensors"
    thermoq.calibrate(LANGUAGE, path, samples=4, steps=8, length=16, rows=8, bins=4, threads=1)
    return {DIGITS: DIGITS.with_name("digits-dit-calibration.safetensors"), LANGUAGE: path}


def unrotated(weight: Any, entry: QuantizedTensor) -> Floats:
    """A weight for rotated inputs as it is for the inputs themselves."""
    rows = np.ascontiguousarray(weight.numpy())
    if entry.rotation is None:
        return rows
    assert entry.rotation_seed is not None
    return Rotation(entry.rotation_seed, entry.shape[1]).backward(rows)


@pytest.mark.parametrize("phase", ["baseline", "smooth", "optimize"])
@pytest.mark.parametrize("source", [DIGITS, LANGUAGE], ids=lambda path: path.name)
def test_what_runs_is_what_is_exported(
    calibrations: dict[Path, Path], tmp_path: Path, source: Path, phase: str
) -> None:
    out, dense = tmp_path / "out", tmp_path / "dense"
    thermoq.quantize(
        source, out, phase=phase, calibration=str(calibrations[source]), output_correction=False,
        sequential=False, validation=False, **TRELLIS,
    )  # fmt: skip
    thermoq.verify(out)
    thermoq.export(out, dense, dtype="float32")
    (component,) = open_quantized(out)[1]
    exported = models.float_tensors(dense / component.component.name)
    running = {f"{name}.weight": layer for name, layer in thermoq.load(out).named_modules()}
    compared = 0
    with MappedFiles() as files:
        weights = Weights(component, files)
        for name, entry in component.manifest.tensors.items():
            if not isinstance(entry, QuantizedTensor) or entry.encoding != "trellis":
                continue
            expected = exported[name]
            assert np.array_equal(unrotated(running[name].weight, entry), expected)
            assert np.array_equal(weights.tensor(name, torch.float32).numpy(), expected)
            packed = weights.packed(name, rotated=True).decoded(torch.float32)
            assert torch.equal(packed, running[name].weight)
            compared += 1
    assert compared > 40


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_real_model_is_what_the_encoder_reached(tmp_path: Path, dtype: str) -> None:
    """MiniLM as it is, and in several shards of bf16: files, report, plan and export agree."""
    whole = models.minilm_as(tmp_path / "source", dtype) if dtype == "BF16" else models.minilm()
    out, dense = tmp_path / "out", tmp_path / "dense"
    plan = thermoq.plan_quantization(whole, max_shard_size="5MB", **TRELLIS)
    report = thermoq.quantize(whole, out, max_shard_size="5MB", validation=False, **TRELLIS)
    assert len(list(out.glob("*.safetensors"))) > 2
    assert plan.model_bytes == report.sizes.model_bytes
    assert report.relative_squared_error == pytest.approx(plan.relative_squared_error, rel=0.03)
    thermoq.verify(out)
    thermoq.export(out, dense, dtype="float32")
    before, after = models.float_tensors(whole), models.float_tensors(dense)
    (component,) = open_quantized(out)[1]
    rows = [row for row in report.layers if row.encoding == "trellis"]
    assert len(rows) == 37
    for row in rows[::9]:
        entry = component.manifest.tensors[row.name]
        assert isinstance(entry, QuantizedTensor)
        shape, turned = (
            (row.shape[0], row.shape[1]),
            Rotation(entry.rotation_seed or 0, row.shape[1]),
        )
        source = turned.forward(before[row.name].astype(np.float32))
        scheme = entry.scheme.trellis
        matrix = Matrix(source.reshape(-1).view(np.uint8), "F32", *shape)
        parts, error = quantize_trellis(matrix, scheme)
        with MappedFiles() as files:
            stored = component.matrix(row.name, files).parts
            for name, part in parts.items():
                assert np.asarray(stored[name]).tobytes() == part.tobytes()
        reached = dequantize_trellis(parts, scheme, *shape).view(np.float32).reshape(shape)
        assert np.array_equal(turned.backward(reached), after[row.name])
        lost = np.square(after[row.name] - before[row.name].astype("f8")).sum()
        assert error.squared_error == pytest.approx(lost, rel=1e-4)
        assert row.squared_error == pytest.approx(error.squared_error, rel=1e-6)


def test_compare_shows_what_evaluate_found(calibrations: dict[Path, Path], tmp_path: Path) -> None:
    settings = {"calibration": str(calibrations[LANGUAGE]), "output_correction": False}
    found = []
    for name in ("coded", "trellis"):
        out, report = tmp_path / name, tmp_path / f"{name}.json"
        codes = TRELLIS if name == "trellis" else {"encoding": "coded"}
        thermoq.quantize(LANGUAGE, out, report=report, **settings, **codes)
        found.append(thermoq.evaluate(LANGUAGE, out, report=report, **SHORT))
    told = thermoq.compare([tmp_path / "coded.json", tmp_path / "trellis.json"])
    (row,) = (row for row in told.rows if row.title == "KL to full precision")
    divergences = [one.language.overall.divergence.value for one in found if one.language]
    assert [cell.value for cell in row.cells] == divergences
    assert [one.encoding for one in told.variants] == ["coded", "trellis"]
    (codes,) = (one for one in told.equalities if one.name == "Encoding")
    assert codes.equal is False
    sizes = [one.sizes for one in told.variants]
    assert sizes[1].weight_bytes < sizes[0].weight_bytes
    from_folders = thermoq.compare([tmp_path / "coded", tmp_path / "trellis"])
    (again,) = (row for row in from_folders.rows if row.title == "KL to full precision")
    assert [cell.value for cell in again.cells] == divergences
