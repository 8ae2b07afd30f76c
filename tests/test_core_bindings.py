"""The border between Python and C++: sizes are checked, nothing is copied behind one's back."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thermoq import _core
from thermoq._core import FloatType, Severity

F32 = FloatType.F32
BYTES = np.zeros(4 * 6, np.uint8)  # a matrix [2, 3] of f32
CODES = np.zeros((2, 3), np.uint8)
SIGNED = np.zeros((2, 3), np.int8)
HALVES = np.zeros((2, 1), np.uint16)
PACKED = np.zeros((2, 1), np.uint8)
PARAMETERS = np.ones((2, 4))
WEIGHT = np.ones(2)
TABLE = np.zeros(256, np.int16)
TRELLIS = {"rows": 2, "cols": 3, "bit_width": 2, "window_bits": 8, "group_size": 8}
FRACTIONS = np.ones((3, 2))
BITS = np.full(2, 8, np.int32)
LINKED = np.ones(3, bool)

# Each function with arguments that work; `wrong` changes one of them.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "quantize_affine": (
        _core.quantize_affine,
        {"source": BYTES, "type": F32, "rows": 2, "cols": 3, "bit_width": 2, "group_size": 8},
    ),
    "quantize_q8": (_core.quantize_q8, {"source": BYTES, "type": F32, "rows": 2, "cols": 3}),
    "dequantize_affine": (
        _core.dequantize_affine,
        {
            "codes": PACKED,
            "scale": HALVES,
            "minimum": HALVES,
            "rows": 2,
            "cols": 3,
            "bit_width": 2,
            "group_size": 8,
            "type": F32,
        },
    ),
    "dequantize_q8": (
        _core.dequantize_q8,
        {"codes": SIGNED, "scale": HALVES, "rows": 2, "cols": 3, "type": F32},
    ),
    "pack_codes": (_core.pack_codes, {"codes": CODES, "rows": 2, "cols": 3, "bit_width": 2}),
    "unpack_codes": (_core.unpack_codes, {"packed": PACKED, "rows": 2, "cols": 3, "bit_width": 2}),
    "convert": (
        _core.convert,
        {"source": BYTES, "from_type": F32, "to_type": FloatType.F16},
    ),
    "squared_norms": (
        _core.squared_norms,
        {
            "source": BYTES,
            "type": F32,
            "rows": 2,
            "cols": 3,
            "magnitude": 1.0,
            "iterations": 1,
            "seed": 0,
        },
    ),
    "quantize_trellis": (
        _core.quantize_trellis,
        {"source": BYTES, "type": F32, **TRELLIS, "block_rows": 8, "table": TABLE},
    ),
    "dequantize_trellis": (
        _core.dequantize_trellis,
        {
            "codes": np.zeros((3, 2), np.uint8),
            "scale": HALVES,
            **TRELLIS,
            "block_rows": 8,
            "table": TABLE,
            "type": F32,
        },
    ),
    "first_trellis_scales": (
        _core.first_trellis_scales,
        {"source": BYTES, "type": F32, **TRELLIS},
    ),
    "boundary_jumps": (
        _core.boundary_jumps,
        {
            "scale": PARAMETERS,
            "zero_point": PARAMETERS,
            "num_weights": WEIGHT,
            "activation_bits": BITS,
            "threshold": 0.3,
            "before": FRACTIONS,
            "after": FRACTIONS,
        },
    ),
    "solve_markov_chains": (
        _core.solve_markov_chains,
        {
            "theta": PARAMETERS,
            "variance": PARAMETERS,
            "strength": WEIGHT,
            "linked": LINKED,
        },
    ),
}
ARRAYS = [
    (name, argument)
    for name, (_, arguments) in CALLS.items()
    for argument, value in arguments.items()
    if isinstance(value, np.ndarray)
]


def call(name: str, **changed: Any) -> Any:
    function, arguments = CALLS[name]
    return function(**{**arguments, **changed})


@pytest.mark.parametrize("name", CALLS)
def test_right_arguments(name: str) -> None:
    call(name)


@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_another_dtype_is_not_converted(name: str, argument: str) -> None:
    array = CALLS[name][1][argument]
    for dtype in {np.int16, np.float32, np.int8, np.uint8} - {array.dtype.type}:
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(name, **{argument: array.astype(dtype)})
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(name, **{argument: array.tolist()})


@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_strided_arrays_are_not_copied(name: str, argument: str) -> None:
    array = CALLS[name][1][argument]
    strided = np.repeat(array, 2, axis=-1)[..., ::2]
    assert strided.shape == array.shape
    if array.size > array.shape[0]:  # one column is contiguous whatever its stride
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(name, **{argument: strided})
    if array.ndim == 2 and 1 not in array.shape:
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(name, **{argument: np.asfortranarray(array)})


@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_arrays_of_another_size_are_refused(name: str, argument: str) -> None:
    array = CALLS[name][1][argument]
    shorter, longer = array.reshape(-1)[:-1], np.append(array.reshape(-1), array.reshape(-1)[:1])
    for wrong in (shorter, longer, array[:0]):
        if (name, argument) == ("convert", "source") and wrong.size == 0:
            continue
        with pytest.raises(ValueError, match=r": expected .*"):
            call(name, **{argument: wrong})


@pytest.mark.parametrize("name", [name for name, (_, given) in CALLS.items() if "rows" in given])
@pytest.mark.parametrize("dimension", ["rows", "cols"])
def test_dimensions_that_do_not_fit_are_refused(name: str, dimension: str) -> None:
    with pytest.raises(ValueError, match=r"expected 0 or more, got -1$"):
        call(name, **{dimension: -1})
    with pytest.raises(ValueError, match=r"expected \d+ elements, got \d+$"):
        call(name, **{dimension: 1000})


@pytest.mark.parametrize(
    "name", ["quantize_affine", "dequantize_affine", "pack_codes", "unpack_codes"]
)
@pytest.mark.parametrize("bit_width", [0, 1, 3, 5, 8, 16])
def test_other_bit_widths_are_refused(name: str, bit_width: int) -> None:
    # unpack_codes and dequantize_affine may see the sizes first.
    with pytest.raises(ValueError, match=r"bit_width: expected 2 or 4|expected \d+ elements"):
        call(name, bit_width=bit_width)


@pytest.mark.parametrize("name", ["quantize_affine", "dequantize_affine"])
@pytest.mark.parametrize("group_size", [-8, 0, 1, 7, 12, 65])
def test_other_group_sizes_are_refused(name: str, group_size: int) -> None:
    with pytest.raises(ValueError, match=r"group_size: expected a multiple of 8|expected \d+ ele"):
        call(name, group_size=group_size)


def test_pairs_belong_to_boundaries() -> None:
    for before in (np.ones(3), np.ones((2, 1)), np.ones((4, 3))):
        with pytest.raises(ValueError, match=r"^before: expected \[\d+, pairs\]"):
            call("boundary_jumps", before=before)


@pytest.mark.parametrize("scale", [np.ones(4), np.ones((1, 2, 4)), np.ones((2, 0))])
def test_parameters_are_a_table(scale: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^scale: expected \[layers, time_groups\]"):
        call("boundary_jumps", scale=scale)


def test_read_only_arrays_are_taken() -> None:
    frozen = BYTES.copy()
    frozen.setflags(write=False)
    call("quantize_affine", source=frozen)
    call("quantize_q8", source=frozen)


def test_results_are_arrays_of_their_own() -> None:
    codes, scale, minimum, error = call("quantize_affine")
    assert (codes.shape, scale.shape, minimum.shape) == ((2, 1), (2, 1), (2, 1))
    assert codes.flags.writeable
    assert codes.flags.owndata
    assert (error.nan_count, error.infinity_count, error.max_magnitude) == (0, 0, 0.0)


ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def test_every_float16_and_bfloat16_widens_exactly(simd_level: str) -> None:
    for dtype, wide in (
        (FloatType.F16, ALL_HALVES.view(np.float16).astype(np.float32)),
        (FloatType.BF16, (ALL_HALVES.astype(np.uint32) << 16).view(np.float32)),
    ):
        out, overflows = _core.convert(ALL_HALVES.view(np.uint8), dtype, F32)
        got = out.view(np.float32)
        assert overflows == 0
        assert np.array_equal(np.isnan(got), np.isnan(wide))
        finite = ~np.isnan(wide)
        assert got[finite].tobytes() == wide[finite].tobytes()
        back, _ = _core.convert(out, F32, dtype)
        assert back.view(np.uint16)[finite].tobytes() == ALL_HALVES[finite].tobytes()


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_narrowing_rounds_half_to_even(simd_level: str, bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    for dtype, name in ((FloatType.F16, "F16"), (FloatType.BF16, "BF16")):
        out, overflows = _core.convert(values.view(np.uint8), F32, dtype)
        assert out.tobytes() == reference.encode_dtype(values, name)
        lost = ~np.isfinite(reference.decode_dtype(out.tobytes(), name))
        assert overflows == np.count_nonzero(lost)


def test_overflow_is_counted_and_infinity_is_not() -> None:
    values = np.array([65519.0, 65520.0, -1e6, np.inf, -np.inf, np.nan], np.float32)
    for threads in (1, 4):
        _, overflows = _core.convert(
            np.tile(values, 50_000).view(np.uint8), F32, FloatType.F16, threads
        )
        assert overflows == 100_000


def test_enumerations() -> None:
    assert issubclass(FloatType, enum.Enum)
    assert [Severity.NONE, Severity.LOW, Severity.MEDIUM, Severity.HIGH] == [-1, 0, 1, 2]
    assert (_core.MAX_MAGNITUDE, _core.Q8_GROUP_SIZE) == (65504.0, 32)


def test_levels() -> None:
    levels = _core.available_simd_levels()
    assert levels[-1] == "scalar"
    assert _core.simd_level() in levels
    for wrong in ("", "sse2", "AVX2 "):
        if wrong:
            with pytest.raises(ValueError, match=r"^THERMOQ_SIMD: expected .*scalar on this CPU"):
                _core.set_simd_level(wrong)
    assert _core.default_threads() >= 1
    assert isinstance(_core.has_openmp(), bool)
    assert _core.compiler().split()[0] in ("gcc", "clang")


def in_subprocess(level: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "THERMOQ_SIMD"}
    if level is not None:
        environment["THERMOQ_SIMD"] = level
    return subprocess.run(
        [sys.executable, "-c", "from thermoq import _core; print(_core.simd_level())"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("level", _core.available_simd_levels())
def test_the_environment_chooses_a_level(level: str) -> None:
    done = in_subprocess(level)
    assert (done.returncode, done.stdout) == (0, f"{level}\n")


@pytest.mark.parametrize("level", [None, ""])
def test_without_a_choice_the_best_level_is_used(level: str | None) -> None:
    assert in_subprocess(level).stdout == f"{_core.available_simd_levels()[0]}\n"


def test_an_unknown_level_in_the_environment_is_an_error() -> None:
    done = in_subprocess("neon")
    assert done.returncode != 0
    assert "THERMOQ_SIMD: expected" in done.stderr
    assert "got 'neon'" in done.stderr
