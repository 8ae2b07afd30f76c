"""`thermoq.json`: what a quantized component holds, and how to read it (docs/format.md)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from thermoq.checkpoint.carried import MANIFEST_NAME
from thermoq.checkpoint.header import DTYPE_BITS
from thermoq.checkpoint.strict_json import JsonObject, read_json_object
from thermoq.checkpoint.trajectory_entries import (
    Checksum,
    ManifestPart,
    Number,
    OutputCorrectionEntry,
    ScheduleEntry,
    SmoothingEntry,
    TimeGroupTable,
    check_starts,
    check_timestep_table,
)
from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.encodings import (
    MAX_GROUP_SIZE,
    MAX_GROUPS_IN_SUPER_BLOCK,
    MAX_SUPER_BLOCK,
    Q8_GROUP_SIZE,
)
from thermoq.errors import InputError
from thermoq.terms import Encoding, LayerClass
from thermoq.trellis import MAX_BLOCK_ROWS, MAX_WINDOW_BITS, MIN_WINDOW_BITS
from thermoq.weights import FLOAT_TYPES, Scheme

FORMAT_VERSION = 1
ROTATED_VERSION = 2
"""Of components with rotated tensors, which a reader of version 1 would misread."""


def _known_dtype(name: str) -> str:
    if name not in DTYPE_BITS:
        raise ValueError("expected a safetensors dtype")
    return name


def _known_bit_width(bit_width: int) -> int:
    if bit_width not in (2, 3, 4, 8):
        raise ValueError("expected 2, 3, 4 or 8")
    return bit_width


_BIT_WIDTHS: Final[Mapping[Encoding, tuple[int, ...]]] = {
    "affine": (2, 4),
    "coded": (2, 4),
    "q8": (8,),
    "trellis": (2, 3, 4),
}
BitWidth = Annotated[int, AfterValidator(_known_bit_width)]
ParameterBits = Annotated[int, Field(ge=1, le=8)]
Dimension = Annotated[int, Field(ge=0)]


class _Tensor(ManifestPart):
    shape: tuple[Dimension, ...]
    source_dtype: Annotated[str, AfterValidator(_known_dtype)]
    same_as: str | None = None
    sha256: Checksum | None = Field(
        default=None, description="of the stored parts; null with same_as"
    )

    @model_validator(mode="after")
    def _is_stored_or_same(self) -> _Tensor:
        if (self.sha256 is None) == (self.same_as is None):
            got = "neither" if self.sha256 is None else "both"
            raise ValueError(f"expected one of sha256 and same_as, got {got}")
        return self

    @property
    def num_weights(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def source_bytes(self) -> int:
        """Bytes in the source checkpoint."""
        return DTYPE_BITS[self.source_dtype] * self.num_weights // 8


class CopiedTensor(_Tensor):
    """Stored bit for bit under its own name."""

    encoding: Literal["copied"] = "copied"
    reason: str


class QuantizedTensor(_Tensor):
    """Stored as codes and group parameters under NAME.codes, NAME.scale, NAME.minimum and so on.

    `super_block`, `scale_bits` and `minimum_bits` are of coded tensors, and None for others;
    `window_bits`, `block_rows` and `table_seed` are of trellis.
    """

    encoding: Literal["affine", "coded", "q8", "trellis"]
    layer_class: LayerClass
    bit_width: BitWidth
    group_size: Annotated[int, Field(ge=8, le=MAX_GROUP_SIZE, multiple_of=8)]
    super_block: Annotated[int, Field(ge=8)] | None = None
    scale_bits: ParameterBits | None = None
    minimum_bits: ParameterBits | None = None
    window_bits: int | None = Field(default=None, description="L: 2^L values are in the table")
    block_rows: Annotated[int, Field(ge=8, le=MAX_BLOCK_ROWS, multiple_of=8)] | None = Field(
        default=None, description="rows that a stream runs down"
    )
    table_seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    row_dimension: Annotated[int, Field(ge=0, le=1)] = 0
    rotation: Literal["hadamard"] | None = Field(
        default=None, description="of the inputs; the codes are those of the rotated matrix"
    )
    rotation_seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    activation_sha256: Checksum | None = Field(
        default=None, description="of its activation parameters; null if it has none"
    )
    activation_bits: Annotated[int, Field(ge=1, le=8)] | None = Field(
        default=None, description="of the codes of its inputs; null: those of the component"
    )
    time_groups_of_rows: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="sets of row gains and biases: 1, or one a time group"
    )
    time_sha256: Checksum | None = Field(
        default=None, description="of its row gains, then the biases; null if it has none"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> QuantizedTensor:
        if self.source_dtype not in FLOAT_TYPES:
            raise ValueError(f"expected a source_dtype of {', '.join(FLOAT_TYPES)}")
        if self.row_dimension >= len(self.shape):
            raise ValueError("expected a dimension of the shape as row_dimension")
        if self.bit_width not in _BIT_WIDTHS[self.encoding]:
            raise ValueError(
                "expected 8 bits with q8, 2 or 4 with affine and coded, 2, 3 or 4 with trellis"
            )
        if self.encoding == "q8" and self.group_size != Q8_GROUP_SIZE:
            raise ValueError(f"expected groups of {Q8_GROUP_SIZE} with q8")
        if (self.rotation is None) != (self.rotation_seed is None):
            raise ValueError("expected rotation and rotation_seed together, got one of them")
        if self.rotation is not None and (len(self.shape) != 2 or self.row_dimension):
            raise ValueError("expected a matrix with rotation")
        if self.activation_bits is not None and self.activation_sha256 is None:
            raise ValueError("expected activation_bits beside activation_sha256, got it alone")
        if (self.time_groups_of_rows is None) != (self.time_sha256 is None):
            raise ValueError("expected time_groups_of_rows and time_sha256 together, got one")
        self._check_keys("coded", ("super_block", "scale_bits", "minimum_bits"))
        self._check_keys("trellis", ("window_bits", "block_rows", "table_seed"))
        self._check_super_block()
        self._check_window()
        return self

    def _check_keys(self, encoding: Encoding, keys: Sequence[str]) -> None:
        """Check what only tensors of one encoding have: all of it there, none of it elsewhere."""
        for key in keys:
            value = getattr(self, key)
            if (value is not None) != (self.encoding == encoding):
                wanted = "a number" if value is None else "none"
                got = shown(value)
                raise ValueError(f"expected {wanted} as {key} with {self.encoding}, got {got}")

    def _check_window(self) -> None:
        known = range(MIN_WINDOW_BITS, MAX_WINDOW_BITS + 1)
        if self.window_bits is not None and self.window_bits not in known:
            raise ValueError(
                f"expected window_bits from {MIN_WINDOW_BITS} to {MAX_WINDOW_BITS}, got "
                f"{self.window_bits}: the tensor is damaged or of a newer version of thermoq"
            )

    def _check_super_block(self) -> None:
        largest = min(MAX_GROUPS_IN_SUPER_BLOCK * self.group_size, MAX_SUPER_BLOCK)
        if self.super_block and (self.super_block % self.group_size or self.super_block > largest):
            raise ValueError(
                f"expected a multiple of group_size {self.group_size} up to {largest} as "
                f"super_block, got {self.super_block}"
            )

    @property
    def scheme(self) -> Scheme:
        """How its matrix is stored."""
        return Scheme(
            self.encoding,
            self.bit_width,
            self.group_size,
            super_block=self.super_block or 0,
            scale_bits=self.scale_bits or 0,
            minimum_bits=self.minimum_bits or 0,
            window_bits=self.window_bits or 0,
            block_rows=self.block_rows or 0,
            table_seed=self.table_seed or 0,
        )


TensorEntry = Annotated[CopiedTensor | QuantizedTensor, Field(discriminator="encoding")]


class Manifest(ManifestPart):
    """One quantized component."""

    format: Literal["thermoq"] = "thermoq"
    format_version: Literal[1, 2] = Field(default=1, description="2 with rotated tensors")
    thermoq_version: str
    component: str
    phase: str
    method: str
    bit_width: BitWidth
    time_groups: TimeGroupTable
    schedule: ScheduleEntry
    activation_bits: Annotated[int, Field(ge=1, le=8)] | None = Field(
        default=None,
        description="of the codes that activation zero points are among, where a tensor has no "
        "others",
    )
    smoothing: SmoothingEntry | None = Field(
        default=None, description="null: parameters jump from a time group to the next"
    )
    output_correction: OutputCorrectionEntry | None = None
    timestep_table: tuple[tuple[Number, Number], ...] | None = Field(
        default=None,
        description="values that the model is handed, rising, and the timesteps that they stand "
        "for; null: the value is the timestep, or for flow matching up to 1 the noise level",
    )
    tensors: dict[str, TensorEntry]
    report: dict[str, Any] = Field(description="the run's report, without what varies by machine")

    @model_validator(mode="after")
    def _has_its_version(self) -> Manifest:
        needed = version_for(self.tensors)
        if self.format_version < needed:
            got = self.format_version
            raise ValueError(f"expected format_version {needed} with rotated tensors, got {got}")
        return self

    @model_validator(mode="after")
    def _fits_its_time_groups(self) -> Manifest:
        num_timesteps = self.time_groups.num_timesteps
        if self.smoothing is not None:
            self.smoothing.check(self.time_groups)
        if self.output_correction is not None:
            starts = self.output_correction.bin_starts
            check_starts("output_correction: bin_starts", starts, num_timesteps)
        if self.timestep_table is not None:
            check_timestep_table(self.timestep_table, num_timesteps)
        num_groups = len(self.time_groups.time_group_starts)
        for name, entry in self.tensors.items():
            sets = entry.time_groups_of_rows if isinstance(entry, QuantizedTensor) else None
            if sets not in (None, 1, num_groups):
                wanted = "1" if num_groups == 1 else f"1 or {num_groups}"
                raise ValueError(
                    f"tensor {shown(name)}: time_groups_of_rows: expected {wanted}, got {sets}"
                )
        return self


def version_for(entries: Mapping[str, TensorEntry]) -> Literal[1, 2]:
    """Return the format version that a component with these tensors needs."""
    rotated = any(isinstance(e, QuantizedTensor) and e.rotation for e in entries.values())
    return 2 if rotated else 1


def manifest_path(component_directory: Path) -> Path:
    """Return where the manifest of a component lies."""
    return component_directory / MANIFEST_NAME


def write_manifest(manifest: Manifest, component_directory: Path) -> None:
    """Write the manifest, with the checksum of its entries, where nobody reads yet."""
    content = manifest.model_dump(mode="json", exclude_none=True)
    report = content.pop("report")
    content |= {"tensors_sha256": tensors_checksum(content["tensors"]), "report": report}
    manifest_path(component_directory).write_text(manifest_text(content), encoding="utf-8")


def manifest_text(content: JsonObject) -> str:
    """Return the JSON of a manifest as it lies in the file."""
    # A tensor and a layer of the report a line: compact, and diffs stay readable.
    levels = {"tensors": 1, "report": 2}
    lines = (f"{_compact(key)}:{_laid_out(content[key], levels.get(key, 0))}" for key in content)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_content(component_directory: Path) -> JsonObject:
    """Read the JSON of a component's manifest; raises InputError if there is none."""
    path = manifest_path(component_directory)
    if not path.is_file():
        raise InputError(
            f"{component_directory}: expected a checkpoint quantized by thermoq, "
            f"got no {MANIFEST_NAME}"
        )
    return read_json_object(path, strict=True)


def parse_manifest(content: JsonObject, path: Path) -> Manifest:
    """Check the manifest that was read from `path`, all but its checksum.

    Raises InputError if it is malformed, or if it names an encoding, a schedule or a version that
    this thermoq does not know.
    """
    if content.get("format_version") not in (FORMAT_VERSION, ROTATED_VERSION):
        got = shown(content.get("format_version"))
        raise bad_file(
            path, f"expected format_version {FORMAT_VERSION} or {ROTATED_VERSION}, got {got}"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise bad_file(path, _first_problem(error)) from None


def check_checksum(content: JsonObject, path: Path) -> None:
    """Check that the entries are as they were written, unknown keys included; else InputError."""
    said, found = content.get("tensors_sha256"), tensors_checksum(content["tensors"])
    if said != found:
        problem = f"expected tensors_sha256 {found}, got {shown(said)}: the entries have changed"
        raise bad_file(path, problem)


def tensors_checksum(entries: JsonObject) -> str:
    """Return the SHA-256 of `tensors` as compact JSON with sorted keys, in UTF-8."""
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _laid_out(value: object, levels: int) -> str:
    """JSON with the items of the outer `levels` a line each, unless they are plain values."""
    if levels == 0 or not isinstance(value, (dict, list)):
        return _compact(value)
    items = value.values() if isinstance(value, dict) else value
    if not any(isinstance(item, (dict, list)) for item in items):
        return _compact(value)
    if isinstance(value, dict):
        lines = [f"{_compact(key)}:{_laid_out(item, levels - 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n}"
    return "[\n" + ",\n".join(_laid_out(item, levels - 1) for item in value) + "\n]"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    if where[:1] == ["tensors"] and len(where) > 1:
        place = f"tensor {shown(where[1])}" + (f": {'.'.join(where[2:])}" if where[2:] else "")
    else:
        place = ".".join(where) or "manifest"
    if problem["type"] == "union_tag_invalid":
        return f"{place}: expected a known encoding, got {shown(problem['ctx']['tag'])}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and ", got " in message:
        return f"{place}: {message}"
    return f"{place}: {message}, got {shown(problem['input'])}"
