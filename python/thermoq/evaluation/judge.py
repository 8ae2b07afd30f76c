"""What judges samples of the bundled model: a classifier of real digits, and where these lie.

The file `models/digits-judge.safetensors`, which scripts/make_digits_judge.py makes, holds both, so
that judging needs nothing beyond NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.reader import MappedFiles, stored_tensors

JUDGE_FILE = "models/digits-judge.safetensors"
IMAGE_SHAPE = (1, 8, 8)
NUM_CLASSES = 10
NUM_COMPONENTS = 32
PIXEL_LEVELS = 16  # of the real digits, whose pixels are 0 to 16
KERNEL_WIDTH = 0.02  # of exp(-width |x - x'|^2), pixels from -1 to 1
MODEL_FINGERPRINT = "xxh3-128:5fdf0fa69c7ae4b60a43b177bebafd34"
"""Of the bundled model, whose samples are judged unasked."""

Floats = NDArray[np.float64]

_NUMPY = {"F64": np.float64, "F32": np.float32, "U8": np.uint8}


@dataclass(frozen=True)
class Judge:
    """A kernel machine and statistics of real digits, pixels from -1 to 1.

    `support` [n, pixels] are digits and `coefficients` [n, classes] their weights: the class of x
    is where `exp(-0.02 |x - support|^2) @ coefficients` is largest. `axes` [components, pixels] are
    the principal axes of real digits, `mean` [components] and `covariance` [components, components]
    those of real digits in them.
    """

    support: Floats
    coefficients: Floats
    axes: Floats
    mean: Floats
    covariance: Floats

    def classes(self, pixels: Floats) -> NDArray[np.int64]:
        """Return the class of each row of `pixels` [n, pixels]."""
        distances = (
            np.square(pixels).sum(1)[:, None]
            + np.square(self.support).sum(1)
            - 2.0 * pixels @ self.support.T
        )
        scores = np.exp(-KERNEL_WIDTH * distances.clip(min=0.0)) @ self.coefficients
        found: NDArray[np.int64] = scores.argmax(1)
        return found

    def components(self, pixels: Floats) -> Floats:
        """Return rows of `pixels` [n, pixels] in the principal axes, [n, components]."""
        return np.asarray(pixels @ self.axes.T)

    def distance(self, mean: Floats, covariance: Floats) -> float:
        """Return the Frechet distance of a normal distribution to that of real digits.

        `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` (Dowson and Landau 1982); the trace of the
        root is the sum of the singular values of `S1^(1/2) S2^(1/2)`.
        """
        shared = float(np.linalg.svd(_root(covariance) @ self._root, compute_uv=False).sum())
        traces = float(np.trace(covariance) + np.trace(self.covariance))
        return float(np.square(mean - self.mean).sum()) + traces - 2.0 * shared

    def distances(self, components: Floats, drawn: NDArray[np.int64]) -> Floats:
        """Return the distance of each replicate, which draws row i `drawn[replicate, i]` times."""
        return np.array([self.distance(*_moments(components, counts)) for counts in drawn])

    @cached_property
    def _root(self) -> Floats:
        return _root(self.covariance)


def load_judge(path: Path | None = None) -> Judge:
    """Read the judge of digits that is bundled, or the one in `path`."""
    if path is None:
        with resources.as_file(resources.files("thermoq") / JUDGE_FILE) as bundled:
            return load_judge(bundled)
    arrays: dict[str, Floats] = {}
    with MappedFiles() as files:
        for name, tensor in stored_tensors(path).items():
            raw = np.array(files.bytes(tensor)).view(_NUMPY[tensor.dtype])
            arrays[name] = raw.reshape(tensor.shape).astype(np.float64)
    arrays["support"] = pixels_of(arrays["support"])
    return Judge(**arrays)


def pixels_of(levels: Floats) -> Floats:
    """Return pixels from -1 to 1 of levels from 0 to 16."""
    return levels / (PIXEL_LEVELS / 2) - 1.0


def _moments(rows: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    total = int(counts.sum())
    mean = counts @ rows / total
    centred = rows - mean
    return mean, (centred * counts[:, None]).T @ centred / (total - 1)


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T)
