"""Measures what each candidate scheme of a tensor costs in error, on some of the tensor's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermoq.budget import Candidate, ErrorCurve
from thermoq.checkpoint import MappedFiles
from thermoq.checkpoint.untrusted import naming
from thermoq.config import QuantizationConfig
from thermoq.encodings import AFFINE_GROUP_SIZE
from thermoq.methods import rotated
from thermoq.plan import ComponentPlan, TensorPlan
from thermoq.progress import Progress
from thermoq.provenance import Stopwatch
from thermoq.rotation import Rotation
from thermoq.terms import PredictingMethod
from thermoq.weights import Matrix, Scheme, WeightError, as_matrix, quantize

SAMPLED_WEIGHTS = 2**17
"""About how many weights of a tensor are measured; smaller tensors are measured whole."""

_FAST = Scheme("affine", 2, AFFINE_GROUP_SIZE)  # at the speed of the memory, by minmax
_FEWEST_ROWS = 8  # of a tensor with rows longer than that allows
_TRELLIS_ROWS = 256  # where a stream runs down them: the bits that one begins with are few then

TensorKey = tuple[str, str]
"""A component's and a tensor's name."""


@dataclass(frozen=True)
class MeasuredTensor:
    """The error curve of a stored tensor, its candidates in the plan's order, and its ||W||^2.

    Errors are those of the measured rows, scaled to the energy of all rows. The curve's weight is
    the number of tensors with these bytes.
    """

    curve: ErrorCurve
    source_energy: float


def measure(
    plans: Sequence[ComponentPlan],
    config: QuantizationConfig,
    files: MappedFiles,
    stopwatch: Stopwatch,
    progress: Progress,
) -> dict[TensorKey, MeasuredTensor]:
    """Quantize some rows of each tensor by each of its candidates, one tensor at a time.

    Tensors that are copied, or stored under another, are left out. The same rows are taken whatever
    the machine: evenly spaced ones. A fast pass over all rows gives their energy, which rows may
    differ much in, and finds what cannot be quantized. Mapped pages are given back after each
    tensor.

    Raises InputError, naming file and tensor, for weights that cannot be quantized.
    """
    uses = _uses(plans)
    work = [(part.component.name, plan) for part in plans for plan in part.tensors]
    progress.start("measure", len(work), sum(plan.tensor.nbytes for _, plan in work))
    measured: dict[TensorKey, MeasuredTensor] = {}
    for component, plan in work:
        key = (component, plan.tensor.name)
        if plan.scheme is not None and plan.same_as is None:
            with stopwatch.measure("error_curves_s"), naming(plan.tensor.path, plan.tensor.name):
                measured[key] = _measured(plan, uses[key], config, files)
            files.release(plan.tensor)
        progress.advance(plan.tensor.name, plan.tensor.nbytes)
    return measured


def _uses(plans: Sequence[ComponentPlan]) -> Mapping[TensorKey, int]:
    """Return how many tensors have the bytes of each stored one."""
    uses: dict[TensorKey, int] = {}
    for part in plans:
        for plan in part.tensors:
            key = (part.component.name, plan.same_as or plan.tensor.name)
            uses[key] = uses.get(key, 0) + 1
    return uses


def _measured(
    plan: TensorPlan, uses: int, config: QuantizationConfig, files: MappedFiles
) -> MeasuredTensor:
    tensor = plan.tensor
    stored = files.bytes(tensor), tensor.dtype, tensor.shape, plan.layer.row_dimension
    has_trellis = any(scheme.encoding == "trellis" for scheme in plan.candidates)
    sample = sampled_rows(*stored, _TRELLIS_ROWS if has_trellis else _FEWEST_ROWS)
    method = predicted_by(config)

    whole_rows = tensor.shape[plan.layer.row_dimension]

    def errors(matrix: Matrix) -> list[WeightError]:
        turned: dict[Rotation, Matrix] = {}  # one at most, for all candidates of 2 and 4 bits
        found = []
        for scheme in plan.candidates:
            rotation = replace(plan, scheme=scheme).rotation(config)
            if rotation is not None and rotation not in turned:
                turned[rotation] = rotated(matrix, rotation, config.threads)
            one = matrix if rotation is None else turned[rotation]
            error = quantize(
                _few_columns(one, scheme), scheme, method=method, threads=config.threads
            )[1]
            found.append(_of_whole(error, one, scheme, whole_rows, config.threads))
        return found

    found = errors(sample)
    energy, factor = found[0].source_energy, 1.0
    if sample.rows < whole_rows:
        whole = as_matrix(*stored)
        fast = quantize(whole, _FAST, method="minmax", threads=config.threads)[1]
        if energy > 0.0:
            factor = fast.source_energy / energy
        elif fast.source_energy > 0.0:
            found = errors(whole)  # nothing lies in the rows that were taken
        energy = fast.source_energy
    candidates = tuple(
        Candidate(scheme, replace(plan, scheme=scheme).encoded_bytes, error.squared_error * factor)
        for scheme, error in zip(plan.candidates, found, strict=True)
    )
    return MeasuredTensor(ErrorCurve(candidates, float(uses)), energy)


def predicted_by(config: QuantizationConfig) -> PredictingMethod:
    """Return the method whose weight errors are measured: `hessian` would take too long."""
    return "minmax" if config.resolved_method == "minmax" else "lsq"


def sampled_rows(
    data: NDArray[np.uint8],
    dtype: str,
    shape: tuple[int, ...],
    row_dimension: int,
    fewest: int = _FEWEST_ROWS,
) -> Matrix:
    """Return evenly spaced output rows of a weight as a matrix, at least `fewest`."""
    rows = shape[row_dimension]
    cols = int(np.prod(shape, dtype=np.int64)) // max(1, rows)
    taken = min(rows, max(fewest, SAMPLED_WEIGHTS // max(1, cols)))
    if taken == rows:
        return as_matrix(data, dtype, shape, row_dimension)
    places = (2 * np.arange(taken, dtype=np.int64) + 1) * rows // (2 * taken)
    elements = data.reshape(*shape, -1)
    sample = np.ascontiguousarray(np.take(elements, places, axis=row_dimension))
    sampled_shape = (*shape[:row_dimension], taken, *shape[row_dimension + 1 :])
    return as_matrix(sample.reshape(-1), dtype, sampled_shape, row_dimension)


def _few_columns(matrix: Matrix, scheme: Scheme) -> Matrix:
    """Return the matrix, for `trellis` with no more weights than are measured.

    Its rows cannot be fewer, but evenly spaced columns tell as much.
    """
    taken = max(1, SAMPLED_WEIGHTS // max(1, matrix.rows))
    if scheme.encoding != "trellis" or taken >= matrix.cols:
        return matrix
    places = (2 * np.arange(taken, dtype=np.int64) + 1) * matrix.cols // (2 * taken)
    elements = matrix.data.reshape(matrix.rows, matrix.cols, -1)
    return replace(matrix, data=np.take(elements, places, axis=1).reshape(-1), cols=taken)


def _of_whole(
    error: WeightError, matrix: Matrix, scheme: Scheme, whole_rows: int, threads: int
) -> WeightError:
    """Return the error of all columns of a matrix from that of a few, as `trellis` has them.

    A stream begins with bits to spare, which weigh more in the sample's rows than in a block's:
    an error goes with 4 to the minus bits per weight.
    """
    taken = _few_columns(matrix, scheme)
    if scheme.encoding != "trellis":
        return error
    spare = scheme.window_bits - scheme.bit_width
    block = min(scheme.block_rows, whole_rows)
    factor = 4.0 ** (spare / max(1, min(matrix.rows, block)) - spare / max(1, block))
    energy = error.source_energy
    if taken.cols < matrix.cols:
        energy = quantize(matrix, _FAST, method="minmax", threads=threads)[1].source_energy
        factor *= energy / error.source_energy if error.source_energy else 1.0
    return replace(error, squared_error=error.squared_error * factor, source_energy=energy)
