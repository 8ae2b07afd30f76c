"""Types of one value an element."""

from __future__ import annotations

import numpy as np
import pytest
from thermoq.gguf.plain import WIDENED, convert_plain, fits_f16, floats

NUMPY = {"F32": "<f4", "F16": "<f2", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1)


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ([], True),
        ([1.0, -0.0, 65504.0, 2.0**-24, 1 + 2.0**-10], True),
        ([np.inf, -np.inf, np.nan], True),
        ([1.0, 1 + 2.0**-11], False),
        ([65520.0], False),
        ([2.0**-25], False),
    ],
)
def test_what_f16_holds(values: list[float], fits: bool) -> None:
    data = as_bytes(np.array(values, "<f4"))
    assert fits_f16(data, "F32") is fits
    padded = np.concatenate([np.zeros(1, np.uint8), data])[1:]  # at an odd address
    assert fits_f16(padded, "F32") is fits


def test_the_last_of_many_values_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thermoq.gguf.plain._CHUNK", 4)
    values = np.ones(10, "<f4")
    assert fits_f16(as_bytes(values), "F32")
    values[9] = 1e-9
    assert not fits_f16(as_bytes(values), "F32")


def test_bfloat16() -> None:
    words = np.array([0x3F80, 0x8000, 0x7F80, 0x0001], "<u2")  # 1, -0, inf, 9.2e-41
    assert floats(as_bytes(words), "BF16").tolist()[:3] == [1.0, 0.0, np.inf]
    assert fits_f16(as_bytes(words[:3]), "BF16")
    assert not fits_f16(as_bytes(words), "BF16")
    half = convert_plain(as_bytes(words[:3]), "BF16", "F16").view("<f2")
    assert half.tolist() == [1.0, 0.0, np.inf]
    assert np.signbit(half[1])
    assert convert_plain(as_bytes(words), "BF16", "F32").view("<u4").tolist() == [
        int(word) << 16 for word in words
    ]


@pytest.mark.parametrize("dtype", ["BOOL", "U8", "U16", "U32"])
def test_integers_that_ggml_lacks(dtype: str) -> None:
    unsigned = {"BOOL": "u1", "U8": "u1", "U16": "<u2", "U32": "<u4"}[dtype]
    largest = 1 if dtype == "BOOL" else np.iinfo(unsigned).max
    values = np.array([0, 1, largest], unsigned)
    target = WIDENED[dtype]
    assert convert_plain(as_bytes(values), dtype, target).view(NUMPY[target]).tolist() == [
        0,
        1,
        largest,
    ]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_float8(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[dtype]
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes).view(kind).to(torch.float32).numpy()
    found = convert_plain(codes, dtype, "F16").view("<f2").astype(np.float32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(
        np.signbit(found), np.signbit(expected) | (np.isnan(found) & np.signbit(found))
    )
