"""How good least squares is: beside the exact optimum of small groups, and beside `minmax`."""

from __future__ import annotations

import itertools
from pathlib import Path

import models
import numpy as np
import pytest
import reference
from reference import F32, Floats
from thermoq.checkpoint import stored_tensors
from thermoq.checkpoint.reader import MappedFiles
from thermoq.weights import Matrix, Scheme, dequantize, quantize

COUNT = 1500  # groups of a kind
KINDS = ("gaussian", "laplace", "uniform", "sparse", "real")


def groups_of(kind: str, size: int) -> Floats:
    """Groups [COUNT, size], one a row."""
    random = np.random.default_rng(size)
    shape = (COUNT, size)
    if kind == "real":
        values = real_weights()
        return values[: len(values) // size * size].reshape(-1, size)[
            :: len(values) // size // COUNT
        ]
    drawn = {
        "gaussian": lambda: random.standard_normal(shape),
        "laplace": lambda: random.laplace(size=shape),
        "uniform": lambda: random.random(shape),
        "sparse": lambda: random.standard_normal(shape) * (random.random(shape) < 0.2),
    }
    return (0.05 * drawn[kind]()).astype(F32)


def real_weights() -> Floats:
    """The first attention and the first MLP matrix of MiniLM, end to end."""
    tensors = stored_tensors(Path(models.minilm()) / "model.safetensors")
    names = [name for name in sorted(tensors) if "layer.0." in name and name.endswith("e.weight")]
    with MappedFiles() as files:
        parts = [reference.decode_dtype(files.bytes(tensors[n]).tobytes(), "F32") for n in names]
    return np.concatenate(parts)


def squared_errors(groups: Floats, bit_width: int, method: str) -> reference.Doubles:
    """The squared error of every group under `affine`, one group a row."""
    matrix = Matrix(groups.reshape(-1).view(np.uint8), "F32", *groups.shape)
    scheme = Scheme("affine", bit_width, -(-groups.shape[1] // 8) * 8)
    quantized, _ = quantize(matrix, scheme, method="lsq" if method == "lsq" else "minmax")
    decoded = dequantize(quantized).view(F32).reshape(groups.shape).astype(np.float64)
    return ((decoded - groups) ** 2).sum(axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 16, 24, 32])
def test_within_one_percent_of_the_optimum(kind: str, size: int) -> None:
    groups = groups_of(kind, size)
    optimum = reference.exact_error(groups).mean()
    assert squared_errors(groups, 2, "lsq").mean() < 1.01 * optimum


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "bit_width"), [*itertools.product([8, 13, 32, 64, 128], [2, 4])])
def test_never_loses_to_minmax(kind: str, size: int, bit_width: int) -> None:
    groups = groups_of(kind, size)
    ours, minmax = (squared_errors(groups, bit_width, method) for method in ("lsq", "minmax"))
    energy = (groups.astype(np.float64) ** 2).sum(axis=1)
    assert (ours <= minmax * (1 + 1e-5) + 1e-12 * energy).all()  # it compares sums in f32
    assert ours.sum() < minmax.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_q8_never_loses_to_minmax(kind: str) -> None:
    groups = groups_of(kind, 32)
    matrix = Matrix(groups.reshape(-1).view(np.uint8), "F32", *groups.shape)
    ours, minmax = (
        quantize(matrix, Scheme("q8", 8, 32), method=method)[1].squared_error
        for method in ("lsq", "minmax")
    )
    assert ours < 0.97 * minmax


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bit_width", "size", "bits", "limit"), [(2, 16, 4, 1.25), (4, 32, 6, 1.2)]
)
def test_coded_comes_close_to_affine(
    kind: str, bit_width: int, size: int, bits: int, limit: float
) -> None:
    """Parameters at a quarter of the size: their rounding is part of the search."""
    groups = groups_of(kind, size)
    rows = groups[: len(groups) // 16 * 16].reshape(-1, 16 * size)
    matrix = Matrix(rows.reshape(-1).view(np.uint8), "F32", *rows.shape)
    coded = Scheme("coded", bit_width, size, 16 * size, bits, bits)
    affine = Scheme("affine", bit_width, size)
    errors = [quantize(matrix, s, method="lsq")[1].squared_error for s in (coded, affine)]
    assert errors[0] < limit * errors[1]


def test_the_exact_solver_is_exact() -> None:
    """Beside every assignment of codes to five weights, fitted by a solver of its own."""
    for x in np.random.default_rng(0).standard_normal((4, 5)):
        best = np.inf
        for codes in itertools.product(range(4), repeat=5):
            design = np.stack([np.array(codes, np.float64), np.ones(5)], axis=1)
            solution = np.linalg.lstsq(design, x, rcond=None)[0]
            best = min(best, float(((design @ solution - x) ** 2).sum()))
        assert reference.exact_error(x[None])[0] == pytest.approx(best, abs=1e-12)
