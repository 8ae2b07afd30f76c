"""What varies along the trajectory, read back from a quantized component and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.manifest import QuantizedTensor, manifest_path
from thermoq.checkpoint.reader import MappedFiles, StoredTensor
from thermoq.checkpoint.untrusted import bad_file, bad_tensor
from thermoq.interpolation import TimeSchedule, piecewise
from thermoq.output_correction import OutputCorrection
from thermoq.schedule import TimeGroups
from thermoq.time_parameters import RowParameters, TimeParameters

if TYPE_CHECKING:
    from thermoq.checkpoint.quantized import QuantizedComponent

LEAST_GAIN, MOST_GAIN = 0.5, 2.0


def read_schedule(component: QuantizedComponent) -> TimeSchedule:
    """Return the schedule that all time parameters of the component follow.

    Raises InputError for time groups that cannot be.
    """
    manifest, smoothing = component.manifest, component.manifest.smoothing
    path = manifest_path(component.component.directory)
    groups = _groups(component, manifest.time_groups.time_group_starts)
    if smoothing is None:
        return piecewise(groups)
    try:
        return TimeSchedule(groups, smoothing.interpolation, smoothing.windows)
    except ValueError as error:
        raise bad_file(path, f"smoothing: {error}") from None


def read_activation(
    component: QuantizedComponent, name: str, files: MappedFiles
) -> TimeParameters | None:
    """Return the activation parameters of tensor `name`; None if it has none.

    Raises InputError unless the checksum holds and the numbers make sense.
    """
    parts = component.activation_parts(name)
    if not parts:
        return None
    scale_data, zero_point = (np.array(files.bytes(part)) for part in parts)
    scale = scale_data.view(np.float16)
    _check_finite(parts[0], scale)
    if (scale < 0).any():
        raise bad_tensor(parts[0].path, parts[0].name, f"expected scales >= 0, got {scale.min()}")
    bits = component.activation_bits(name)
    if bits is None:
        path = manifest_path(component.component.directory)
        raise bad_file(path, "expected activation_bits beside activation parameters, got none")
    if zero_point.max(initial=0) >= 2**bits:
        problem = f"expected zero points below {2**bits}, got {zero_point.max()}"
        raise bad_tensor(parts[1].path, parts[1].name, problem)
    entry = _entry(component, name)
    what = "activation parameters"
    _check_sum(parts[0], name, what, entry.activation_sha256, [scale_data, zero_point])
    return TimeParameters(
        scale.astype(np.float64),
        zero_point.astype(np.float64),
        source="calibration",
        activation_bits=bits,
    )


def read_rows(component: QuantizedComponent, name: str, files: MappedFiles) -> RowParameters | None:
    """Return the row gains and biases of tensor `name`; None if it has none.

    Raises InputError unless the checksum holds, gains lie in [0.5, 2] and biases are finite.
    """
    parts = component.row_parts(name)
    if not parts:
        return None
    data = [np.array(files.bytes(part)) for part in parts]
    gain, bias = (
        array.view(np.float16).reshape(part.shape) for array, part in zip(data, parts, strict=True)
    )
    _check_finite(parts[0], gain)
    _check_finite(parts[1], bias)
    outside = gain[(gain < LEAST_GAIN) | (gain > MOST_GAIN)]
    if outside.size:
        problem = f"expected gains from {LEAST_GAIN} to {MOST_GAIN:g}, got {outside[0]:g}"
        raise bad_tensor(parts[0].path, parts[0].name, problem)
    entry = _entry(component, name)
    _check_sum(parts[0], name, "row gains and biases", entry.time_sha256, data)
    return RowParameters(gain.astype(np.float32), bias.astype(np.float32))


def read_output_correction(
    component: QuantizedComponent, files: MappedFiles
) -> OutputCorrection | None:
    """Return the correction of the model's prediction; None if there is none.

    Raises InputError unless the checksum holds and the numbers make sense.
    """
    entry = component.manifest.output_correction
    if entry is None:
        return None
    parts = component.output_parts()
    data = [np.array(files.bytes(part)) for part in parts]
    arrays = [
        array.view(np.float16).reshape(part.shape) for array, part in zip(data, parts, strict=True)
    ]
    for part, array in zip(parts, arrays, strict=True):
        _check_finite(part, array)
    _check_sum(parts[0], parts[0].name, "output correction", entry.sha256, data)
    gain, bias = arrays[0], arrays[1] if len(arrays) > 1 else None
    try:
        return OutputCorrection(
            _groups(component, entry.bin_starts),
            entry.kind,
            gain.astype(np.float32),
            None if bias is None else bias.astype(np.float32),
        )
    except ValueError as error:
        raise bad_tensor(parts[0].path, parts[0].name, str(error)) from None


def _groups(component: QuantizedComponent, starts: tuple[float, ...]) -> TimeGroups:
    try:
        return TimeGroups(component.manifest.time_groups.num_timesteps, starts)
    except ValueError as error:
        raise bad_file(manifest_path(component.component.directory), str(error)) from None


def _entry(component: QuantizedComponent, name: str) -> QuantizedTensor:
    entry = component.manifest.tensors[name]
    assert isinstance(entry, QuantizedTensor)  # others have no time parameters
    return entry


def _check_finite(part: StoredTensor, values: NDArray[np.float16]) -> None:
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise bad_tensor(part.path, part.name, f"expected finite values, got {bad} that are not")


def _check_sum(
    part: StoredTensor,
    name: str,
    what: str,
    said: str | None,
    data: Sequence[NDArray[np.uint8]],
) -> None:
    digest = hashlib.sha256(b"".join(array.tobytes() for array in data)).hexdigest()
    if digest != said:
        raise bad_tensor(
            part.path,
            name,
            f"expected the checksum {said} of its {what}, got {digest}: the file has changed",
        )
