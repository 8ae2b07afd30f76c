"""docs/format.md: its lines of Python read every tensor, its example and its tables are true."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import calibrations
import models
import numpy as np
import pytest
import thermoq
from conftest import Run
from safetensors.numpy import save_file
from thermoq import _core
from thermoq.checkpoint.late_shard import add_output_correction
from thermoq.checkpoint.manifest import CopiedTensor, Manifest, QuantizedTensor
from thermoq.checkpoint.quantized import open_quantized
from thermoq.checkpoint.trajectory_entries import (
    CORRECTION_KINDS,
    SCHEDULE_KINDS,
    OutputCorrectionEntry,
    ScheduleEntry,
    SmoothingEntry,
    TimeGroupTable,
)
from thermoq.output_correction import OutputCorrection
from thermoq.schedule import uniform_time_groups
from thermoq.terms import INTERPOLATIONS, PHASES
from thermoq.time_parameters import activation_at
from thermoq.weights import Matrix, QuantizedMatrix, Scheme, dequantize, quantize

DOCUMENT = (Path(__file__).parents[1] / "docs/format.md").read_text(encoding="utf-8")
Quantized = Callable[[str, str], Run]
Reader = Callable[[Path, str], np.ndarray]


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    """What the document ends with."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    assert [len(block.splitlines()) <= 70 for block in blocks] == [True] * 3
    namespace: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "docs/format.md", "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def read_tensor(functions: dict[str, Any]) -> Reader:
    """The document's function for weights."""
    function: Reader = functions["read_tensor"]
    return function


def assert_reads(read_tensor: Reader, folder: Path, dense: Path) -> None:
    for name, (dtype, shape, data) in models.read_tensors(dense).items():
        if dtype.startswith("F8"):
            continue  # NumPy has no such dtype; the document says so
        values = read_tensor(folder, name)
        assert values.shape == shape, name
        assert values.tobytes() == data, name
        if dtype == "F32":
            assert values.dtype == np.float32, name


def test_the_lines_read_what_export_writes(run: Run, read_tensor: Reader) -> None:
    assert_reads(read_tensor, run.output / run.component, run.dense / run.component)


@pytest.mark.parametrize("bit_width", [4, 8])
def test_other_bit_widths_and_shards(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader, bit_width: int
) -> None:
    for name in ("unet", "dream"):
        run = quantized(name, "BF16")
        output, dense = tmp_path / name, tmp_path / f"{name}-dense"
        thermoq.quantize(
            run.source, output, bit_width=bit_width, max_shard_size="30KB", seed=bit_width
        )
        thermoq.export(output, dense, dtype="float32")
        assert_reads(read_tensor, output / run.component, dense / run.component)


@pytest.mark.parametrize("group_size", [8, 40, 100_000])
def test_other_group_sizes(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader, group_size: int
) -> None:
    run = quantized("oddities", "F32")
    thermoq.baseline(run.source, tmp_path / "out", group_size=group_size)
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    assert_reads(read_tensor, tmp_path / "out", tmp_path / "dense")


@pytest.mark.parametrize(
    "settings",
    [{"encoding": "affine"}, {"encoding": "coded"}, {"bit_width": 4, "seed": 2**64 - 1},
     {"encoding": "trellis"}, {"encoding": "trellis", "bit_width": 3, "effort": 1}],
)  # fmt: skip
def test_rotated_tensors(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader, settings: dict[str, Any]
) -> None:
    for name in ("dit", "dream", "oddities"):
        run = quantized(name, "BF16")
        output, dense = tmp_path / name, tmp_path / f"{name}-dense"
        thermoq.quantize(run.source, output, method="lsq", rotation="hadamard", **settings)
        thermoq.export(output, dense, dtype="float32")
        manifest = json.loads((output / run.component / "thermoq.json").read_text())
        assert manifest["format_version"] == 2
        rotated = [entry for entry in manifest["tensors"].values() if "rotation" in entry]
        assert {entry["rotation_seed"] for entry in rotated} == {settings.get("seed", 0)}
        assert_reads(read_tensor, output / run.component, dense / run.component)


def test_an_unknown_rotation_is_refused_by_name(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader
) -> None:
    run = quantized("dream", "F32")
    for path in models.safetensors_files(run.output):
        (tmp_path / path.name).symlink_to(path)
    manifest = json.loads((run.output / "thermoq.json").read_text())
    name = "model.layers.0.self_attn.q_proj.weight"
    manifest["tensors"][name] |= {"rotation": "random", "rotation_seed": 0}
    (tmp_path / "thermoq.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"^{name}: unknown rotation random$"):
        read_tensor(tmp_path, name)


def test_an_unknown_encoding_is_refused_by_name(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader
) -> None:
    manifest = json.loads((quantized("dream", "F32").output / "thermoq.json").read_text())
    manifest["tensors"]["lm_head.weight"]["encoding"] = "lattice"
    (tmp_path / "thermoq.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="unknown encoding lattice"):
        read_tensor(tmp_path, "lm_head.weight")


def write_random_coded(
    folder: Path, row: tuple[int, int, int, int, int], shape: tuple[int, ...], seed: int
) -> tuple[dict[str, np.ndarray], int, int]:
    """Write a coded tensor "w.weight" of random parts and return those, its rows and columns.

    `row`: bit width, group size, super-block, bits of scales and of minima.
    """
    bits, group_size, super_block, scale_bits, minimum_bits = row
    rows, cols = shape[0], int(np.prod(shape[1:]))
    groups, supers = -(-cols // group_size), -(-cols // super_block)
    random = np.random.default_rng(seed)
    parts = {
        "super_scale": random.uniform(0, 1, (rows, supers)).astype(np.float16),
        "super_minimum": random.normal(0, 1, (rows, supers)).astype(np.float16),
        "scale_codes": packed_row_by_row(random, rows, groups, scale_bits),
        "minimum_codes": packed_row_by_row(random, rows, groups, minimum_bits),
        "codes": packed_row_by_row(random, rows, cols, bits),
    }
    entry = {
        "encoding": "coded", "shape": shape, "source_dtype": "F32", "row_dimension": 0,
        "bit_width": bits, "group_size": group_size, "super_block": super_block,
        "scale_bits": scale_bits, "minimum_bits": minimum_bits,
    }  # fmt: skip
    (folder / "thermoq.json").write_text(json.dumps({"tensors": {"w.weight": entry}}))
    tensors = {f"w.weight.{suffix}": array for suffix, array in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    return parts, rows, cols


def packed_row_by_row(random: np.random.Generator, rows: int, count: int, bits: int) -> np.ndarray:
    """Random codes of `bits` bits, each row one number, low codes first."""
    lines = []
    for _ in range(rows):
        number = sum(int(random.integers(2**bits)) << (bits * i) for i in range(count))
        lines.append(list(number.to_bytes(-(-count * bits // 8), "little")))
    return np.array(lines, np.uint8)


def code_at(line: np.ndarray, index: int, bits: int) -> int:
    """The document's sentence on packing, bit for bit."""
    code = 0
    for k in range(bits):
        b = index * bits + k
        code |= (int(line[b // 8]) >> (b % 8) & 1) << k
    return code


@pytest.mark.parametrize(
    "row",
    [(2, 16, 256, 4, 4), (4, 32, 256, 6, 6), (2, 8, 24, 6, 4), (2, 16, 48, 3, 5), (4, 8, 16, 7, 1),
     (4, 24, 48, 8, 2), (2, 64, 4096, 5, 7)],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(3, 256), (2, 100), (1, 1), (2, 5, 3, 3)])
def test_the_lines_read_codes_of_any_width(
    tmp_path: Path, read_tensor: Reader, row: tuple[int, int, int, int, int], shape: tuple[int, ...]
) -> None:
    """Against the sentences of the document, one weight at a time, in scalar f32."""
    parts, rows, cols = write_random_coded(tmp_path, row, shape, seed=sum(row))
    bits, group_size, super_block, scale_bits, minimum_bits = row
    expected = np.zeros((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            j, i = c // group_size, c // super_block
            scale_code = np.float32(code_at(parts["scale_codes"][r], j, scale_bits))
            minimum_code = np.float32(code_at(parts["minimum_codes"][r], j, minimum_bits))
            code = np.float32(code_at(parts["codes"][r], c, bits))
            scale = np.float32(parts["super_scale"][r, i]) * scale_code
            minimum = np.float32(parts["super_minimum"][r, i]) * minimum_code
            # Every product is exact, so that a fused multiply-add would do as well.
            assert float(scale) * float(code) == float(scale * code)
            assert float(parts["super_scale"][r, i]) * float(scale_code) == float(scale)
            expected[r, c] = scale * code - minimum
    values = read_tensor(tmp_path, "w.weight")
    assert values.dtype == np.float32
    assert values.tobytes() == expected.tobytes()
    assert values.shape == shape
    scheme = Scheme(
        *("coded", bits, group_size),
        super_block=super_block,
        scale_bits=scale_bits,
        minimum_bits=minimum_bits,
    )
    decoded = dequantize(QuantizedMatrix(scheme, rows, cols, dict(parts)))
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "settings",
    [{"scale_bits": 5, "minimum_bits": 3}, {"bit_width": 4, "scale_bits": 7, "minimum_bits": 6},
     {"group_size": 8, "super_block": 40}, {"encoding": "coded", "group_size": 40},
     {"encoding": "affine"}, {"encoding": "trellis", "group_size": 16},
     *({"encoding": "trellis", "rotation": "none", "bit_width": b, "effort": effort}
       for b, effort in ((2, 1), (3, 2), (4, 3), (2, 5)))],
)  # fmt: skip
def test_other_codes(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader, settings: dict[str, Any]
) -> None:
    for name in ("unet", "oddities"):
        run = quantized(name, "BF16")
        output, dense = tmp_path / name, tmp_path / f"{name}-dense"
        thermoq.quantize(run.source, output, **settings)
        thermoq.export(output, dense, dtype="float32")
        assert_reads(read_tensor, output / run.component, dense / run.component)


def example(encoding: str, row: str) -> list[str]:
    """A row of the document's example of packing in an encoding."""
    text = DOCUMENT.split(f"An example of `{encoding}`:")[1]
    text = text.split("An example")[0].split("## ")[0]
    (found,) = re.findall(rf"^    {row} +(.*)$", text, re.M)
    return [word for word in found.split() if word != "|"]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("window_bits", [8, 9, 12])
@pytest.mark.parametrize("shape", [(3, 24), (37, 20), (1, 1), (2, 5, 3, 3)])
def test_the_lines_read_streams_of_any_width(
    tmp_path: Path, read_tensor: Reader, bits: int, window_bits: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(bits * window_bits)
    rows, cols = shape[0], int(np.prod(shape[1:]))
    scheme = Scheme(
        "trellis", bits, 16, window_bits=window_bits, block_rows=16, table_seed=2**64 - 1
    )
    (_, pair), (_, (nbytes,)) = scheme.stored_parts(rows, cols).values()
    parts = {
        "scale": rng.lognormal(size=pair).astype(np.float16),
        "codes": rng.integers(0, 256, nbytes, np.uint8),
    }
    save_file({f"w.weight.{k}": part for k, part in parts.items()}, tmp_path / "model.safetensors")
    entry = {
        "encoding": "trellis", "shape": list(shape), "bit_width": bits, "group_size": 16,
        "window_bits": window_bits, "block_rows": 16, "table_seed": 2**64 - 1, "row_dimension": 0,
    }  # fmt: skip
    (tmp_path / "thermoq.json").write_text(json.dumps({"tensors": {"w.weight": entry}}))
    values = read_tensor(tmp_path, "w.weight")
    assert (values.dtype, values.shape) == (np.float32, shape)
    decoded = dequantize(QuantizedMatrix(scheme, rows, cols, dict(parts)))
    assert decoded.tobytes() == values.tobytes()


def test_the_example_of_trellis() -> None:
    stream = [int(byte, 16) for byte in example("trellis", "bytes")]
    number = sum(byte << (8 * i) for i, byte in enumerate(stream))
    windows = [number >> (2 * row) & 255 for row in range(4)]
    assert windows == [int(window, 16) for window in example("trellis", "windows")]
    scheme = Scheme("trellis", 2, 8, window_bits=8, block_rows=8, table_seed=1)
    parts = {"scale": np.ones((4, 1), np.float16), "codes": np.array(stream, np.uint8)}
    decoded = dequantize(QuantizedMatrix(scheme, 4, 1, dict(parts))).view(np.float32)
    assert decoded.tolist() == (scheme.trellis.table[windows] / 4096).tolist()


@pytest.mark.parametrize("window_bits", range(8, 13))
def test_no_value_of_a_table_is_near_a_tie(window_bits: int) -> None:
    """A libm that is off in the last digit gives the same table."""
    count = 1 << window_bits
    units = [4096 * NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    assert min(abs(unit % 1 - 0.5) for unit in units) > 1e-6


def test_the_example_of_packing(simd_level: str) -> None:
    weights = np.array([example("affine", "weights")], np.float32)
    matrix = Matrix(weights.reshape(-1).view(np.uint8), "F32", *weights.shape)
    quantized, error = quantize(matrix, Scheme("affine", 2, 8))
    minimum, scale = example("affine", "minimum"), example("affine", "scale")
    assert quantized.parts["minimum"].tolist() == [[float(m) for m in minimum]]
    assert quantized.parts["scale"].tolist() == [[float(s) for s in scale]]
    packed = quantized.parts["codes"].view(np.uint8)
    assert packed.tolist() == [[int(byte, 16) for byte in example("affine", "bytes")]]
    codes = _core.unpack_codes(packed, 1, weights.size, 2)
    assert codes.tolist() == [[int(code) for code in example("affine", "codes")]]
    assert error.squared_error == 0.0


def test_the_example_of_coded(simd_level: str) -> None:
    text = DOCUMENT.split("An example of `coded`:")[1].split("##")[0]
    bytes_of = {
        part: [int(byte, 16) for byte in line.split()]
        for part, line in re.findall(r"^    (\w+codes|codes) .*\n      as bytes +(.*)$", text, re.M)
    }
    parts: dict[str, Any] = {
        **{part: np.array([bytes_], np.uint8) for part, bytes_ in bytes_of.items()},
        **{part: np.array([example("coded", part)], np.float16)
           for part in ("super_scale", "super_minimum")},
    }  # fmt: skip
    for part, bits in (("scale_codes", 6), ("minimum_codes", 3), ("codes", 2)):
        codes = [int(code) for code in example("coded", part)]
        assert [code_at(parts[part][0], i, bits) for i in range(len(codes))] == codes
    scheme = Scheme("coded", 2, 8, super_block=16, scale_bits=6, minimum_bits=3)
    decoded = dequantize(QuantizedMatrix(scheme, 1, 20, parts)).view(np.float32)
    assert decoded.tolist() == [float(weight) for weight in example("coded", "weights")]
    stored_as = {suffix: array.shape for suffix, array in parts.items()}
    assert {k: shape for k, (_, shape) in scheme.stored_parts(1, 20).items()} == stored_as


def test_the_drawing_of_codes_in_two_bytes() -> None:
    (drawing,) = re.findall(r"^    6 bits:.*?group$", DOCUMENT, re.M | re.S)
    owners = [int(digit) for digit in re.findall(r"\b\d\b", drawing.splitlines()[-1])]
    for byte in range(3):
        for bit, owner in enumerate(reversed(owners[8 * byte : 8 * byte + 8])):
            line = np.zeros(3, np.uint8)
            line[byte] = 1 << bit
            assert [code_at(line, i, 6) != 0 for i in range(4)] == [i == owner for i in range(4)]


@pytest.mark.parametrize("bit_width", [2, 4])
def test_the_drawing_of_the_bit_order(bit_width: int) -> None:
    (drawing,) = re.findall(rf"^    {bit_width} bits:.*?^$", DOCUMENT, re.M | re.S)
    (row,) = re.findall(r"\|(.*)\|   column", drawing)
    columns = [[int(column) for column in re.findall(r"\d+", byte)] for byte in row.split("|  |")]
    for byte, in_byte in enumerate(columns):
        for position, column in enumerate(reversed(in_byte)):
            codes = np.zeros((1, 16), np.uint8)
            codes[0, column] = 1
            packed = _core.pack_codes(codes, 1, 16, bit_width)
            assert packed[0, byte] == 1 << (position * bit_width)


def test_every_key_is_described(quantized: Quantized) -> None:
    run = quantized("dream", "BF16")
    entry = json.loads((run.output / "config.json").read_text())["quantization_config"]
    keys = {
        *(key
          for model in (Manifest, TimeGroupTable, ScheduleEntry, SmoothingEntry,
                        OutputCorrectionEntry, CopiedTensor, QuantizedTensor)
          for key in model.model_fields),
        *entry,
        "tensors_sha256",
    }  # fmt: skip
    missing = {key for key in keys if f"`{key}`" not in DOCUMENT}
    assert missing == set()
    kinds = (*SCHEDULE_KINDS, *INTERPOLATIONS, *CORRECTION_KINDS, *PHASES)
    assert [kind for kind in kinds if f'`"{kind}"`' not in DOCUMENT] == []


def test_the_lines_of_the_checksum(run: Run) -> None:
    (lines,) = re.findall(r"^    (text = .*)\n    (tensors_sha256 = .*)$", DOCUMENT, re.M)
    manifest = json.loads((run.output / run.component / "thermoq.json").read_text("utf-8"))
    namespace: dict[str, Any] = {"json": json, "hashlib": hashlib, "manifest": manifest}
    exec("\n".join(lines), namespace)
    assert namespace["tensors_sha256"] == manifest["tensors_sha256"]


def test_keys_are_present_where_the_tables_say(run: Run) -> None:
    manifest = json.loads((run.output / run.component / "thermoq.json").read_text())
    of_calibrated = {"activation_bits", "smoothing", "output_correction", "timestep_table"}
    always = Manifest.model_fields.keys() - of_calibrated
    assert manifest.keys() == {*always, "tensors_sha256"}
    everywhere = {"encoding", "shape", "source_dtype"}
    of_matrices = {"layer_class", "bit_width", "group_size", "row_dimension"}
    of_encoding = {
        "coded": {"super_block", "scale_bits", "minimum_bits"},
        "trellis": {"window_bits", "block_rows", "table_seed"},
    }
    for row in run.report.layers:
        of_rotated = manifest["tensors"][row.name].keys() & {"rotation", "rotation_seed"}
        assert len(of_rotated) == (0 if row.rotation is None else 2)
    for entry in manifest["tensors"].values():
        place = {"same_as"} if "same_as" in entry else {"sha256"}
        own = {"reason"} if entry["encoding"] == "copied" else of_matrices
        own = own | of_encoding.get(entry["encoding"], set())
        assert entry.keys() - {"rotation", "rotation_seed"} == everywhere | place | own
    expected = set(models.read_tensors(run.source / run.component))
    assert set(manifest["tensors"]) == expected


def test_stored_tensors_are_those_of_the_table(run: Run) -> None:
    manifest = json.loads((run.output / run.component / "thermoq.json").read_text())
    stored = models.read_tensors(run.output / run.component)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, entry in manifest["tensors"].items():
        shape = tuple(entry["shape"])
        if "same_as" in entry:
            continue
        if entry["encoding"] == "copied":
            expected[name] = (entry["source_dtype"], shape)
            continue
        rows = shape[entry["row_dimension"]]
        cols = int(np.prod(shape)) // rows
        groups = -(-cols // entry["group_size"])
        if entry["encoding"] == "coded":
            supers = -(-cols // entry["super_block"])
            for suffix, count, bits in (
                ("scale_codes", groups, entry["scale_bits"]),
                ("minimum_codes", groups, entry["minimum_bits"]),
                ("codes", cols, entry["bit_width"]),
            ):
                expected[f"{name}.{suffix}"] = ("U8", (rows, -(-count * bits // 8)))
            expected[f"{name}.super_scale"] = ("F16", (rows, supers))
            expected[f"{name}.super_minimum"] = ("F16", (rows, supers))
            continue
        expected[f"{name}.scale"] = ("F16", (rows, groups))
        if entry["encoding"] == "affine":
            expected[f"{name}.minimum"] = ("F16", (rows, groups))
            expected[f"{name}.codes"] = ("U8", (rows, -(-cols * entry["bit_width"] // 8)))
        elif entry["encoding"] == "trellis":
            whole, rest = divmod(rows, entry["block_rows"])
            beyond = entry["window_bits"] - entry["bit_width"]
            streams = [
                cols * -(-(entry["bit_width"] * n + beyond) // 8)
                for n in [entry["block_rows"]] * whole + [rest] * (rest > 0)
            ]
            expected[f"{name}.codes"] = ("U8", (sum(streams),))
        else:
            expected[f"{name}.codes"] = ("I8", (rows, cols))
    assert {name: tensor[:2] for name, tensor in stored.items()} == expected


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float | None], Path]:
    """A DiT of phase optimize with a schedule; without a window piecewise constant."""
    root = tmp_path_factory.mktemp("optimized")
    source = models.MAKERS["dit"](root / "dit", "F32")
    calibrations.calibrated(source, root / "c.safetensors", rows_per_bin=24)
    bias = np.random.default_rng(1).standard_normal((7, 4)).astype(np.float16)
    gain = np.linspace(0.5, 1.5, 7).astype(np.float16)
    correction = OutputCorrection(
        uniform_time_groups(1000, 7), "channel", gain.astype(np.float32), bias.astype(np.float32)
    )

    @functools.cache
    def make(interpolation: str, window: float | None) -> Path:
        output = root / f"{interpolation}-{window}"
        thermoq.quantize(
            source, output, method="lsq", phase="optimize", output_correction=False,
            calibration=root / "c.safetensors", interpolation=interpolation,
            window=window, smoothing=window is not None, activation_bits=4,
        )  # fmt: skip
        add_output_correction(open_quantized(output)[1][0], correction)
        thermoq.verify(output)
        return output

    return make


TIMESTEPS = [999.5, 999, 874.1, 812.25, 749.0, 748.75, 500, 499, 401.5, 250, 249, 3.25, 0.0]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("window", [None, 30.5, 125.0])
def test_the_lines_find_time_parameters(
    functions: dict[str, Any],
    optimized: Callable[[str, float | None], Path],
    interpolation: str,
    window: float | None,
) -> None:
    """Bit for bit what the library finds, at any timestep."""
    folder = optimized(interpolation, window)
    (component,) = open_quantized(folder)[1]
    schedule = component.schedule()
    seen = set()
    for name, entry in component.manifest.tensors.items():
        activation, rows = component.activation(name), component.rows(name)
        for timestep in TIMESTEPS:
            found = functions["time_parameters"](folder / "transformer", name, timestep)
            group, fraction = schedule.blend(timestep)
            seen.add(fraction > 0)
            expected: list[Any] = [None] * 4
            if activation is not None:
                values = activation.scale, activation.zero_point, activation.activation_bits
                expected[:2] = activation_at(*values, group, fraction)
            if rows is not None:
                expected[2:] = rows.at(group, fraction)
                assert isinstance(entry, QuantizedTensor)
                assert found[2].shape == (entry.shape[entry.row_dimension],)
            for one, other in zip(found, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert one.dtype == np.float32
                    assert one.tobytes() == np.asarray(other, np.float32).tobytes()
    assert seen == ({False} if window is None else {False, True})


def test_the_lines_find_the_correction(
    functions: dict[str, Any], optimized: Callable[[str, float | None], Path]
) -> None:
    folder = optimized("linear", None)
    correction = open_quantized(folder)[1][0].output_correction()
    assert correction is not None
    for timestep in TIMESTEPS:
        gain, bias = functions["output_correction"](folder / "transformer", timestep)
        expected, shift = correction.at(timestep)
        assert gain == expected
        assert np.array_equal(bias, shift)


def test_the_lines_refuse_what_they_do_not_know(
    functions: dict[str, Any], optimized: Callable[[str, float | None], Path], tmp_path: Path
) -> None:
    folder = optimized("linear", 30.5) / "transformer"
    name = "transformer_blocks.0.attn1.to_q.weight"
    for outside in (-1, 1000):
        with pytest.raises(ValueError, match=f"timestep {outside} is outside of the trajectory"):
            functions["time_parameters"](folder, name, outside)
    for path in models.safetensors_files(folder):
        (tmp_path / path.name).symlink_to(path)
    manifest = json.loads((folder / "thermoq.json").read_text())
    manifest["smoothing"]["interpolation"] = "quintic"
    manifest["output_correction"]["kind"] = "pixel"
    (tmp_path / "thermoq.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="unknown interpolation quintic"):
        functions["time_parameters"](tmp_path, name, 740)
    with pytest.raises(ValueError, match="unknown correction pixel"):
        functions["output_correction"](tmp_path, 740)


def test_a_plain_checkpoint_has_no_time_parameters(
    functions: dict[str, Any], quantized: Quantized
) -> None:
    folder = quantized("dit", "F32").output / "transformer"
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert functions["time_parameters"](folder, name, 5) == (None, None, None, None)
    assert functions["output_correction"](folder, 5) == (None, None)
