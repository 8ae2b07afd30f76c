"""A calibration of another model is refused, and the error says in what it differs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import pytest
from calibrations import calibrated
from reference import encode_dtype
from thermoq.calibration.file import Calibration
from thermoq.calibration.matching import check_model
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.errors import InputError

LAYER = "transformer_blocks.0.attn1.to_q.weight"


def checked(calibration: Calibration, model: Path) -> Calibration:
    with MappedFiles() as files:
        return check_model(calibration, Path("C"), open_checkpoint(model).components, files)


def test_its_own_model(tmp_path: Path) -> None:
    model = models.dit(tmp_path / "model")
    written = calibrated(model, tmp_path / "c")
    found = checked(written, model)
    assert found.description == written.description
    assert found.input_of(f"transformer/{LAYER}") is not None


def test_a_model_out_of_its_pipeline_and_in_it(tmp_path: Path) -> None:
    pipeline = models.dit(tmp_path / "model")
    bare = tmp_path / "bare"
    shutil.copytree(pipeline / "transformer", bare)
    of_pipeline = calibrated(pipeline, tmp_path / "c")
    found = checked(of_pipeline, bare)
    assert found.input_of(LAYER) is not None
    assert found.input_of(f"transformer/{LAYER}") is None
    of_bare = replace(found)
    back = checked(of_bare, pipeline)
    assert back.description.layers == of_pipeline.description.layers


def test_other_weights(tmp_path: Path) -> None:
    model = models.dit(tmp_path / "model")
    written = calibrated(model, tmp_path / "c")

    def change(tensors: models.Tensors) -> models.Tensors:
        dtype, shape, data = tensors[LAYER]
        return {**tensors, LAYER: (dtype, shape, data[:-4] + b"\0\0\x80\x3f")}

    path = model / "transformer/diffusion_pytorch_model.safetensors"
    models.replace_tensors(path, change)
    with pytest.raises(InputError) as raised:
        checked(written, model)
    fingerprint = r"xxh3-128:[0-9a-f]{32}"
    assert re.fullmatch(
        r"C: expected a calibration of the weights in \S*/model/transformer "
        rf"\({fingerprint}\), got one of other weights \({fingerprint}\); calibrate this model",
        str(raised.value),
    )


def test_another_class(tmp_path: Path) -> None:
    model = models.dit(tmp_path / "model")
    written = calibrated(model, tmp_path / "c")
    path = model / "transformer/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(InputError) as raised:
        checked(written, model)
    assert "expected a calibration of 'FluxTransformer2DModel'" in str(raised.value)
    assert "got one of another architecture, 'DiTTransformer2DModel'" in str(raised.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (44, "has 40 input columns there, the model has the shape [40, 44]"),
        (0, "has 40 input columns there, the model has no such layer"),
    ],
)
def test_other_shapes(tmp_path: Path, columns: int, message: str) -> None:
    model = models.dit(tmp_path / "model")
    written = calibrated(model, tmp_path / "c")

    def change(tensors: models.Tensors) -> models.Tensors:
        kept = {name: tensor for name, tensor in tensors.items() if name != LAYER}
        values = np.ones((40, columns), np.float32)
        return (
            {**kept, LAYER: ("F32", values.shape, encode_dtype(values, "F32"))} if columns else kept
        )

    models.replace_tensors(model / "transformer/diffusion_pytorch_model.safetensors", change)
    with pytest.raises(InputError) as raised:
        checked(written, model)
    assert f"another architecture: layer '{LAYER}' {message}" in str(raised.value)


def test_no_component_in_common(tmp_path: Path) -> None:
    model = models.dit(tmp_path / "model")
    written = calibrated(model, tmp_path / "c")
    both = written.description.model_copy(
        update={"components": dict.fromkeys(("unet", "prior"), next(iter(
            written.description.components.values())))}
    )  # fmt: skip
    with pytest.raises(InputError) as raised:
        checked(replace(written, description=both), model)
    assert str(raised.value) == (
        "C: expected a calibration of the component 'transformer', got 'unet', 'prior'"
    )
