"""The calibration file: one safetensors file for a whole model (docs/calibration-format.md)."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from thermoq.calibration.statistics import CalibratedInput
from thermoq.checkpoint.reader import MappedFiles, StoredTensor, stored_tensors
from thermoq.checkpoint.strict_json import parse_json_object
from thermoq.checkpoint.trajectory_entries import check_timestep_table
from thermoq.checkpoint.untrusted import bad_file, bad_tensor, shown
from thermoq.checkpoint.writer import StoredPart
from thermoq.errors import UsageError
from thermoq.report.atomic import check_writable
from thermoq.schedule import TimeGroups, uniform_time_groups
from thermoq.staging import published_together, refused

FORMAT = "thermoq-calibration"
FORMAT_VERSION = 1
DEFAULT_NUM_BINS = 20
METADATA_KEY = "thermoq"
"""The key of the file's metadata that holds the description, as JSON."""

# Each array of an input: its suffix in the file, its field, its dtypes; widest first.
_ARRAYS = (
    ("count", "count", ("I64",)),
    ("min", "minimum", ("F32",)),
    ("max", "maximum", ("F32",)),
    ("percentiles", "percentiles", ("F32",)),
    ("mean", "mean", ("F32",)),
    ("second_moment", "second_moment", ("F32",)),
    ("rows", "rows", ("F16", "F32")),
)
_NUMPY: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}


class _Part(BaseModel):
    # Additions keep the version: a key that a later thermoq wrote does not matter here.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class CalibratedComponent(_Part):
    """One model that was run: its weights' fingerprint and its class, for messages."""

    fingerprint: str
    architecture: str = ""


def _is_scalar(value: object) -> object:
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise ValueError("expected a string, a number, true, false or null")
    return value


class Description(_Part):
    """What a calibration is of, and how it came to be."""

    thermoq_version: str
    components: dict[str, CalibratedComponent] = Field(
        min_length=1, description='by folder name, "" for the model directory itself'
    )
    schedule_kind: Literal["gaussian", "flow_matching", "masked"]
    num_timesteps: Annotated[int, Field(ge=1)]
    schedule: str = Field(default="", description="the noise schedule, for people")
    noise_levels: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        default=None,
        min_length=21,
        max_length=21,
        description="of the schedule, as `calibration.noise` has them; null: not noted then",
    )
    timestep_table: tuple[tuple[float, float], ...] | None = Field(
        default=None,
        description="pairs of a value that the denoiser was handed and its timestep; null: values "
        "are timesteps or, for flow matching, noise levels or T times those",
    )
    bin_starts: tuple[float, ...] = Field(
        min_length=1, description="the noisiest timestep of each bin, noisiest bin first"
    )
    percentile_levels: tuple[float, ...] = Field(description="in percent, rising")
    sampler: str = Field(description="the class that sampled")
    steps: Annotated[int, Field(ge=1)] = Field(description="of the sampler")
    guidance: float | None = Field(default=None, description="null: none")
    seed: Annotated[int, Field(ge=0)]
    num_samples: Annotated[int, Field(ge=1)]
    rows_per_bin: Annotated[int, Field(ge=0)]
    data_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="of the samples that are the user's data, not the model's own"
    )
    details: dict[str, Annotated[Any, AfterValidator(_is_scalar)]] = Field(
        default_factory=dict, description="what else the sampler says, for people"
    )
    layers: dict[str, str] = Field(
        description="the input that each calibrated layer takes: COMPONENT/TENSOR to an input"
    )
    not_reached: tuple[str, ...] = Field(
        default=(), description="layers that never ran while sampling"
    )

    @model_validator(mode="after")
    def _has_bins(self) -> Description:
        TimeGroups(self.num_timesteps, self.bin_starts)  # its ValueError says what is wrong
        check_timestep_table(self.timestep_table or (), self.num_timesteps)
        return self


@dataclass(frozen=True)
class Calibration:
    """The inputs of a model's layers along the trajectory, by name."""

    description: Description
    inputs: Mapping[str, CalibratedInput] = field(repr=False)

    @property
    def bins(self) -> TimeGroups:
        """The fine time bins, noisiest first."""
        return TimeGroups(self.description.num_timesteps, self.description.bin_starts)

    @property
    def num_bins(self) -> int:
        """Fine time bins."""
        return len(self.description.bin_starts)

    @property
    def empty_bins(self) -> tuple[int, ...]:
        """The bins that no forward pass of any model came to."""
        seen = np.zeros(self.num_bins, bool)
        for source in self.inputs.values():
            seen |= source.count > 0
        return tuple(np.flatnonzero(~seen).tolist())

    def input_of(self, layer: str) -> CalibratedInput | None:
        """Return the input of `layer`, COMPONENT/TENSOR; None if it was not calibrated."""
        name = self.description.layers.get(layer)
        return None if name is None else self.inputs[name]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all of it: equal for files of equal bytes."""
        digest = xxhash.xxh3_128(_text(self.description).encode())
        for part, array in _parts(self.inputs):
            digest.update(f"{part.name} {part.dtype} {part.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return f"xxh3-128:{digest.hexdigest()}"


def fine_bins(num_timesteps: int, num_bins: int) -> TimeGroups:
    """Cut the trajectory into `num_bins` equal bins: `j(t) = clip(floor((T-1-t)*n/T), 0, n-1)`.

    Raises UsageError unless there is at least one bin and at least one timestep for each.
    """
    if not 1 <= num_bins <= num_timesteps:
        raise UsageError(
            f"expected --bins between 1 and {num_timesteps} (the model's timesteps), got {num_bins}"
        )
    return uniform_time_groups(num_timesteps, num_bins)


def layer_name(component: str, tensor: str) -> str:
    """Return what a calibration calls the layer of weight `tensor`: COMPONENT/TENSOR."""
    return f"{component}/{tensor}" if component else tensor


# Writing.


def write_calibration(path: Path, calibration: Calibration, *, replace: bool = True) -> None:
    """Write `calibration` to `path`, all of it or nothing; the same bytes for the same data.

    Raises InputError if the disk refuses or, without `replace`, if the name is taken by then.
    """
    check_writable(path)
    parts = list(_parts(calibration.inputs))
    header: dict[str, object] = {
        "__metadata__": {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            METADATA_KEY: _text(calibration.description),
        }
    }
    end = 0
    for part, _ in parts:
        header[part.name] = part.header_entry(end)
        end += part.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with published_together() as staging:
        try:
            with open(staging.add(path, replace=replace).temporary, "xb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                for _, array in parts:
                    file.write(array.reshape(-1).view(np.uint8).data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(path, error) from None


def _parts(inputs: Mapping[str, CalibratedInput]) -> Iterator[tuple[StoredPart, NDArray[Any]]]:
    """Yield what lies in the file, in order: wide types first, so that all are aligned."""
    for dtypes in (("I64",), ("F32",), ("F16",)):
        for name in sorted(inputs):
            for suffix, attribute, _ in _ARRAYS:
                array = np.ascontiguousarray(getattr(inputs[name], attribute))
                if _NAMES[array.dtype] in dtypes:
                    part = StoredPart(f"{name}.{suffix}", _NAMES[array.dtype], array.shape)
                    yield part, array


def _text(description: Description) -> str:
    content = description.model_dump(mode="json")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# Reading.


def read_calibration(path: Path | str) -> Calibration:
    """Read the file at `path`; its arrays are views of the mapped file.

    Raises InputError for a file that is truncated, of another format or version, or inconsistent.
    """
    path = Path(path)
    stored = stored_tensors(path)
    description = _description(path)
    inputs = {}
    with MappedFiles() as files:
        for name in sorted(set(description.layers.values())):
            inputs[name] = _input(path, name, stored, files, description)
    if stored:
        raise bad_tensor(path, min(stored), "expected the statistics of an input, got another name")
    return Calibration(description, inputs)


def _description(path: Path) -> Description:
    from thermoq.checkpoint.header import read_header

    metadata = read_header(path).metadata
    found = metadata.get("format")
    if found != FORMAT:
        raise bad_file(
            path,
            f"expected a calibration that `thermoq calibrate` wrote, got a safetensors file of "
            f"format {shown(found)}",
        )
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        age = "older" if version.isdecimal() and int(version) < FORMAT_VERSION else "newer"
        raise bad_file(
            path,
            f"expected calibration format {FORMAT_VERSION}, got {shown(version)}: written by an "
            f"{age} thermoq; calibrate again",
        )
    text = metadata.get(METADATA_KEY, "").encode()
    content = parse_json_object(text, path, part="description", strict=True)
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "bins"
        message = problem["msg"].removeprefix("Value error, ")
        raise bad_file(path, f"description: {where}: {message}") from None


def _input(
    path: Path,
    name: str,
    stored: dict[str, StoredTensor],
    files: MappedFiles,
    description: Description,
) -> CalibratedInput:
    """Take the arrays of an input out of `stored` and check them."""
    arrays: dict[str, NDArray[Any]] = {}
    taken = []
    for suffix, attribute, dtypes in _ARRAYS:
        tensor = stored.pop(f"{name}.{suffix}", None)
        if tensor is None:
            raise bad_tensor(path, f"{name}.{suffix}", "missing")
        if tensor.dtype not in dtypes:
            wanted = " or ".join(dtypes)
            raise bad_tensor(path, tensor.name, f"expected {wanted}, got {tensor.dtype}")
        taken.append(tensor)
        data = files.bytes(tensor)
        arrays[attribute] = data.view(_NUMPY[tensor.dtype]).reshape(tensor.shape)
    _check_shapes(path, name, arrays, description)
    _check_values(path, name, arrays)
    for tensor in taken:
        files.release(tensor)
    return CalibratedInput(**arrays)


def _check_shapes(
    path: Path, name: str, arrays: dict[str, NDArray[Any]], description: Description
) -> None:
    bins, levels = len(description.bin_starts), len(description.percentile_levels)
    columns = arrays["mean"].shape[-1] if arrays["mean"].ndim == 2 else 0
    kept = arrays["rows"].shape[1] if arrays["rows"].ndim == 3 else 0
    expected: dict[str, Sequence[int]] = {
        "count": (bins,),
        "minimum": (bins,),
        "maximum": (bins,),
        "percentiles": (bins, levels),
        "mean": (bins, columns),
        "second_moment": (bins, columns),
        "rows": (bins, kept, columns),
    }
    for suffix, attribute, _ in _ARRAYS:
        shape = arrays[attribute].shape
        if shape != tuple(expected[attribute]):
            wanted = list(expected[attribute])
            raise bad_tensor(
                path, f"{name}.{suffix}", f"expected the shape {wanted}, got {list(shape)}"
            )


def _check_values(path: Path, name: str, arrays: dict[str, NDArray[Any]]) -> None:
    """Check what a shape cannot: that the numbers are finite and fit each other."""
    for suffix, attribute, _ in _ARRAYS:
        array = arrays[attribute]
        if array.dtype.kind == "f":
            bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in array)
            if bad:
                problem = f"expected finite values, got {bad} that are not"
                raise bad_tensor(path, f"{name}.{suffix}", problem)
    for suffix, wrong, expected in (
        ("count", arrays["count"] < 0, "at least 0"),
        ("max", arrays["maximum"] < arrays["minimum"], "at least min"),
        ("second_moment", arrays["second_moment"] < 0, "at least 0"),
    ):
        if wrong.any():
            raise bad_tensor(path, f"{name}.{suffix}", f"expected values of {expected}")


__all__ = [
    "DEFAULT_NUM_BINS",
    "CalibratedComponent",
    "CalibratedInput",
    "Calibration",
    "Description",
    "fine_bins",
    "layer_name",
    "read_calibration",
    "write_calibration",
]
