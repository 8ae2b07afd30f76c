"""What varies along the trajectory, read back: as it was written, or refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibrations
import models
import numpy as np
import pytest
import thermoq
from thermoq.checkpoint.late_shard import add_output_correction, files_of
from thermoq.checkpoint.manifest import tensors_checksum
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.errors import InputError
from thermoq.output_correction import OutputCorrection
from thermoq.schedule import TimeGroups, uniform_time_groups
from thermoq.terms import CorrectionKind
from time_parameter_files import add_time_parameters

NAME = "transformer_blocks.0.attn1.to_q.weight"
GAIN, BIAS = f"{NAME}.time_gain", f"{NAME}.time_bias"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated DiT, in one file."""
    root = tmp_path_factory.mktemp("plain")
    source = models.MAKERS["dit"](root / "dit", "F32")
    calibrations.calibrated(source, root / "c.safetensors")
    thermoq.baseline(source, root / "out", calibration=root / "c.safetensors")
    return root / "out"


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "out"))


def opened(root: Path) -> QuantizedComponent:
    (component,) = open_quantized(root)[1]
    return component


def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "transformer/thermoq.json"
    content = json.loads(path.read_text())
    change(content)
    content["tensors_sha256"] = tensors_checksum(content["tensors"])
    path.write_text(json.dumps(content))


def put(root: Path, name: str, array: np.ndarray) -> None:
    """Write another array of the same dtype in the place of one."""
    (path,) = models.safetensors_files(root / "transformer")
    models.replace_tensors(path, lambda t: {**t, name: (t[name][0], array.shape, array.tobytes())})


def test_a_plain_checkpoint_is_piecewise_constant(plain: Path) -> None:
    component = opened(plain)
    assert component.schedule().groups == uniform_time_groups(1000, 4)
    assert not component.schedule().is_smoothed
    assert component.rows(NAME) is None
    assert component.output_correction() is None
    activation = component.activation(NAME)
    assert activation is not None
    assert activation.scale.shape == activation.zero_point.shape == (4,)
    assert activation.source == "calibration"
    assert component.activation("pos_embed.pos_embed") is None


@pytest.mark.parametrize("sets", [1, 4])
def test_rows_come_back(copied: Path, sets: int) -> None:
    add_time_parameters(copied / "transformer", groups_of_rows=lambda name: sets)
    thermoq.verify(copied)
    component = opened(copied)
    rows = component.rows(NAME)
    stored = models.read_tensors(copied / "transformer")
    assert rows is not None
    assert rows.num_groups == sets
    for array, name in ((rows.gain, GAIN), (rows.bias, BIAS)):
        dtype, shape, data = stored[name]
        assert (dtype, shape) == ("F16", array.shape)
        assert array.astype(np.float16).tobytes() == data


def test_the_schedule_comes_back(copied: Path) -> None:
    windows = (125.0, 0.0, 3.5)
    add_time_parameters(copied / "transformer", smoothing=("sigmoid", windows))
    schedule = opened(copied).schedule()
    assert (schedule.interpolation, schedule.windows) == ("sigmoid", windows)
    thermoq.verify(copied)


def corrections() -> list[OutputCorrection]:
    bins = uniform_time_groups(1000, 5)
    gain = np.linspace(0.75, 1.25, 5).astype(np.float16).astype(np.float32)
    shapes: dict[CorrectionKind, tuple[int, ...]] = {"channel": (5, 4), "position": (5, 4, 2, 2)}
    draw = np.random.default_rng(0)
    found = [OutputCorrection(bins, "logits", gain)]
    for kind, shape in shapes.items():
        bias = draw.standard_normal(shape).astype(np.float16).astype(np.float32)
        found.append(OutputCorrection(bins, kind, gain, bias))
    return found


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("optimized")
    source = models.MAKERS["dit"](root / "dit", "F32")
    calibrations.calibrated(source, root / "c.safetensors")
    settings = {"method": "lsq", "phase": "optimize", "output_correction": False}
    thermoq.quantize(source, root / "out", calibration=root / "c.safetensors", **settings)
    return root / "out"


def test_a_correction_is_added_and_replaced(optimized: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(optimized, tmp_path / "out"))
    before = models.read_tensors(root / "transformer")
    for correction in corrections():
        add_output_correction(opened(root), correction)
        thermoq.verify(root)
        found = opened(root).output_correction()
        assert found is not None
        assert (found.kind, found.bins) == (correction.kind, correction.bins)
        assert np.array_equal(found.gain, correction.gain)
        if correction.bias is None:
            assert found.bias is None
        else:
            assert found.bias is not None
            assert np.array_equal(found.bias, correction.bias)
        after = models.read_tensors(root / "transformer")
        added = {"thermoq.output.time_gain", "thermoq.output.time_bias"}
        assert {name: t for name, t in after.items() if name not in added} == before
        written = files_of(opened(root))
        paths = models.safetensors_files(root / "transformer")
        assert written.total_bytes == sum(path.stat().st_size for path in paths)
        assert not list((root / "transformer").glob("*.tmp"))


def test_a_correction_needs_a_shard_of_time_parameters(plain: Path) -> None:
    with pytest.raises(InputError, match="expected time parameters in one shard of their own"):
        add_output_correction(opened(plain), corrections()[0])


def test_a_correction_spans_the_trajectory(optimized: Path) -> None:
    short = OutputCorrection(TimeGroups(500, (499.0,)), "logits", np.ones(1, np.float32))
    with pytest.raises(ValueError, match="expected bins over 1000 timesteps, got 500"):
        add_output_correction(opened(optimized), short)


def test_a_correction_is_found_by_timestep() -> None:
    correction = corrections()[1]
    assert correction.bias is not None
    for timestep, bin in ((999.5, 0), (999, 0), (799, 1), (799.5, 0), (0, 4)):
        gain, bias = correction.at(timestep)
        assert gain == correction.gain[bin]
        assert np.array_equal(bias, correction.bias[bin])
    for outside in (-0.5, 1000, float("nan")):
        with pytest.raises(ValueError, match=r"^expected a timestep in \[0, 1000\), got"):
            correction.at(outside)


@pytest.mark.parametrize(
    ("kind", "gain", "bias", "problem"),
    [
        ("channel", (3,), (5, 4), "expected 5 gains, got [3]"),
        ("channel", (5,), None, "expected biases that fit the kind channel, got none"),
        ("channel", (5,), (5, 4, 2), "expected biases that fit the kind channel, got [5, 4, 2]"),
        ("position", (5,), (4, 4, 2), "expected biases that fit the kind position, got [4, 4, 2]"),
        ("logits", (5,), (5, 4), "expected biases that fit the kind logits, got [5, 4]"),
    ],
)
def test_a_correction_fits_together(
    kind: CorrectionKind, gain: tuple[int], bias: tuple[int, ...] | None, problem: str
) -> None:
    biases = None if bias is None else np.zeros(bias, np.float32)
    with pytest.raises(ValueError, match=rf"^{re.escape(problem)}$"):
        OutputCorrection(uniform_time_groups(1000, 5), kind, np.ones(gain, np.float32), biases)


@pytest.mark.parametrize("value", [0.1, np.nan, np.inf, 1e6])
def test_a_correction_is_what_f16_can_hold(value: float) -> None:
    gain = np.full(5, value, np.float32)
    with pytest.raises(ValueError, match="expected numbers that f16 can hold"):
        OutputCorrection(uniform_time_groups(1000, 5), "logits", gain)


def test_a_gain_turns_nothing_round() -> None:
    gain = np.array([1, 1, -1, 1, 1], np.float32)
    with pytest.raises(ValueError, match="expected gains above 0, got -1"):
        OutputCorrection(uniform_time_groups(1000, 5), "logits", gain)


# What is wrong with a file.


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        thermoq.verify(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def with_rows(root: Path) -> Path:
    return add_time_parameters(root / "transformer", groups_of_rows=lambda name: 4).parent


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        (GAIN, 0.25, "expected gains from 0.5 to 2, got 0.25"),
        (GAIN, 2.5, "expected gains from 0.5 to 2, got 2.5"),
        (GAIN, np.nan, "expected finite values, got 1 that are not"),
        (BIAS, np.inf, "expected finite values, got 1 that are not"),
    ],
)
def test_numbers_that_make_no_sense(copied: Path, part: str, value: float, problem: str) -> None:
    with_rows(copied)
    _, shape, data = models.read_tensors(copied / "transformer")[part]
    array = np.frombuffer(data, np.float16).reshape(shape).copy()
    array[1, 2] = value
    put(copied, part, array)
    assert refused(copied).endswith(f"tensor '{part}': {problem}")
    with pytest.raises(InputError):
        opened(copied).rows(NAME)


@pytest.mark.parametrize("part", [GAIN, BIAS])
def test_a_changed_number(copied: Path, part: str) -> None:
    with_rows(copied)
    _, shape, data = models.read_tensors(copied / "transformer")[part]
    array = np.frombuffer(data, np.float16).reshape(shape).copy()
    array[0, 0] = 1.25
    put(copied, part, array)
    assert "of its row gains and biases, got" in refused(copied)


def test_a_missing_part(copied: Path) -> None:
    with_rows(copied)
    (path,) = models.safetensors_files(copied / "transformer")
    models.replace_tensors(path, lambda t: {k: v for k, v in t.items() if k != BIAS})
    assert refused(copied).endswith(f"tensor '{BIAS}': missing from the safetensors files")


def test_a_part_of_another_shape(copied: Path) -> None:
    with_rows(copied)
    put(copied, GAIN, np.ones((4, 2), np.float16))
    assert f"tensor '{GAIN}': expected F16 [4, " in refused(copied)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"time_groups_of_rows": 3}, "time_groups_of_rows: expected 1 or 4, got 3"),
        ({"time_groups_of_rows": 0}, "greater than or equal to 1, got 0"),
        ({"time_sha256": None}, "expected time_groups_of_rows and time_sha256 together, got one"),
        ({"time_sha256": "0"}, "string_pattern"),
    ],
)
def test_entries_that_make_no_sense(copied: Path, change: dict[str, Any], problem: str) -> None:
    with_rows(copied)
    edit(copied, lambda content: content["tensors"][NAME].update(change))
    message = refused(copied)
    assert NAME in message
    assert problem in message or "should match pattern" in message


@pytest.mark.parametrize(
    ("smoothing", "problem"),
    [
        ({"interpolation": "quintic", "windows": [1, 1, 1]},
         "expected a known interpolation, got 'quintic'"),
        ({"interpolation": "linear", "windows": [1, 1]},
         "smoothing: expected a window for each of 3 boundaries, got 2"),
        ({"interpolation": "linear", "windows": [1, 126, 1]},
         "smoothing: expected a window from 0 to 125 at boundary 1, got 126"),
        ({"interpolation": "linear", "windows": [1, -1, 1]},
         "smoothing: expected a window from 0 to 125 at boundary 1, got -1"),
        ({"interpolation": "linear", "windows": [0, 0, 0]},
         "smoothing: expected a window above 0 at some boundary, got none"),
    ],
)  # fmt: skip
def test_schedules_that_cannot_be(copied: Path, smoothing: dict[str, Any], problem: str) -> None:
    edit(copied, lambda content: content.update(smoothing=smoothing))
    assert problem in refused(copied)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ([[0, 0], [1, 1000]], "timestep_table: expected timesteps from 0 to below 1000, got 1000"),
        ([[0, 0], [0, 5]], "timestep_table: expected values that rise"),
        ([[0, 0], [1, 5], [2, 4]], "timesteps that all rise or all fall, got [2.0, 4.0] after"),
        ([[0, 9], [1, 5], [2, 6]], "timesteps that all rise or all fall, got [2.0, 6.0] after"),
    ],
)
def test_tables_that_cannot_be(copied: Path, table: list[list[float]], problem: str) -> None:
    edit(copied, lambda content: content.update(timestep_table=table))
    assert problem in refused(copied)


def test_tables_rise_or_fall(copied: Path) -> None:
    for table in ([[0, 0], [0.5, 400], [1, 999]], [[0, 999], [1, 0]], [[0.5, 3]]):
        edit(copied, lambda content, table=table: content.update(timestep_table=table))
        assert opened(copied).manifest.timestep_table == tuple(map(tuple, table))


def corrected(root: Path, kind: str, shape: tuple[int, ...] | None, gain: float = 1.0) -> Path:
    bias = None if shape is None else np.zeros(shape, np.float16)
    gains = np.full(2, gain, np.float16)
    correction = (kind, (999.0, 499.0), gains, bias)
    return add_time_parameters(root / "transformer", correction=correction).parent


@pytest.mark.parametrize(
    ("kind", "shape", "gain", "problem"),
    [
        ("pixel", (2, 3), 1.0, "expected a known kind of correction, got 'pixel'"),
        ("channel", (2, 3, 4), 1.0, "expected biases of 2 bins that fit the kind channel, got"),
        ("channel", None, 1.0, "expected biases of 2 bins that fit the kind channel, got none"),
        ("logits", (2, 3), 1.0, "expected biases of 2 bins that fit the kind logits, got [2, 3]"),
        ("position", (3, 3), 1.0, "expected biases of 2 bins that fit the kind position, got"),
        ("channel", (2, 3), 0.0, "expected gains above 0, got 0"),
        ("channel", (2, 3), np.inf, "expected finite values, got 2 that are not"),
    ],
)
def test_corrections_that_cannot_be(
    copied: Path, kind: str, shape: tuple[int, ...] | None, gain: float, problem: str
) -> None:
    corrected(copied, kind, shape, gain)
    assert problem in refused(copied)


def test_a_correction_whose_bins_cannot_be(copied: Path) -> None:
    corrected(copied, "channel", (2, 3))
    edit(copied, lambda content: content["output_correction"].update(bin_starts=[999, 999]))
    assert "output_correction: bin_starts that fall strictly" in refused(copied)


def test_a_changed_correction(copied: Path) -> None:
    corrected(copied, "channel", (2, 3))
    thermoq.verify(copied)
    put(copied, "thermoq.output.time_gain", np.full(2, 1.5, np.float16))
    assert "of its output correction, got" in refused(copied)


def test_a_correction_that_is_not_there(copied: Path) -> None:
    corrected(copied, "channel", (2, 3))
    (path,) = models.safetensors_files(copied / "transformer")
    models.replace_tensors(
        path, lambda t: {k: v for k, v in t.items() if k != "thermoq.output.time_gain"}
    )
    assert "'thermoq.output.time_gain': missing" in refused(copied)
