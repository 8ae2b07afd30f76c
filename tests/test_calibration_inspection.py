"""What is told of a calibration file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import thermoq
from calibrations import example_calibration, inputs_of, statistics_of
from safetensors_files import write_safetensors
from thermoq.calibration.file import read_calibration, write_calibration
from thermoq.calibration_inspection import is_calibration
from thermoq.errors import InputError

SHIPPED = Path(thermoq.__file__).parent / "models" / "digits-dit-calibration.safetensors"


def test_the_shipped_calibration() -> None:
    found = thermoq.inspect_calibration(SHIPPED)
    calibration = read_calibration(SHIPPED)
    description = calibration.description
    assert is_calibration(SHIPPED)
    assert found.nbytes == SHIPPED.stat().st_size
    assert found.fingerprint == calibration.fingerprint
    told = dataclasses.asdict(found)
    for key in ("thermoq_version", "schedule_kind", "num_timesteps", "sampler", "steps",
                "seed", "num_samples", "guidance", "data_share", "rows_per_bin",
                "not_reached"):  # fmt: skip
        assert told[key] == getattr(description, key), key
    assert told["components"] == {
        name: part.model_dump() for name, part in description.components.items()
    }
    assert (found.num_layers, found.num_inputs, found.num_bins) == (57, 31, 20)
    assert found.num_rows == sum(len(one.sample()) for one in calibration.inputs.values())


def test_layers_share_inputs_and_bins_may_be_empty(tmp_path: Path) -> None:
    rows = {bin: inputs_of("a", 12, bin, 20, 40 if bin else 3, 0) for bin in range(5)}
    calibration = example_calibration(
        {"a": statistics_of(rows)},
        layers={"to_q": "a", "to_k": "a"},
        not_reached=("to_v",),
        guidance=4.0,
        data_share=0.5,
    )
    write_calibration(tmp_path / "c.safetensors", calibration)
    found = thermoq.inspect_calibration(str(tmp_path / "c.safetensors"))
    assert (found.num_layers, found.num_inputs) == (2, 1)
    assert found.num_rows == 3 + 4 * 16
    assert (found.not_reached, found.guidance, found.data_share) == (("to_v",), 4.0, 0.5)


def test_what_is_none(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": ("F32", (2,), bytes(8))})
    (tmp_path / "empty").touch()
    for path in (
        tmp_path,
        tmp_path / "missing",
        tmp_path / "empty",
        tmp_path / "model.safetensors",
    ):
        assert not is_calibration(path)
    with pytest.raises(InputError, match="expected a calibration that `thermoq calibrate` wrote"):
        thermoq.inspect_calibration(tmp_path / "model.safetensors")


def test_a_truncated_one_is_still_known_for_one(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(SHIPPED.read_bytes()[:-8])
    assert is_calibration(path)
    with pytest.raises(InputError, match=r"c\.safetensors: "):
        thermoq.inspect_calibration(path)
