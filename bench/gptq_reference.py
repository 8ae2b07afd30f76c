"""GPTQ in torch, as published, for comparison: written from the paper, not from thermoq.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2023), algorithm 1: columns in order, the inverse Hessian's Cholesky factor, lazy batches of 128
columns, damping of 1 % of the mean diagonal, a group's grid found when the sweep reaches it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from thermoq.report.model import Report

Grid = Literal["minmax", "lsq", "weighted lsq"]

DAMPING = 0.01
BLOCK = 128


def gptq(weight: Tensor, inputs: Tensor, bits: int, group_size: int, grid: Grid) -> Tensor:
    """Return what `weight` [out, in] decodes to, rounded for `inputs` [n, in]."""
    weight = weight.clone()
    hessian = inputs.T @ inputs / len(inputs)
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    decoded = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, weight.shape[1]))
        errors = torch.zeros_like(weight[:, block])
        for i in range(*block.indices(weight.shape[1])):
            if i % group_size == 0:
                group = slice(i, i + group_size)
                scale, minimum = _GRIDS[grid](weight[:, group], bits, factor.diagonal()[group])
            code = ((weight[:, i] - minimum) / scale).round().clamp(0, 2**bits - 1)
            decoded[:, i] = code * scale + minimum
            error = (weight[:, i] - decoded[:, i]) / factor[i, i]
            weight[:, i : block.stop] -= torch.outer(error, factor[i, i : block.stop])
            errors[:, i - start] = error
        weight[:, block.stop :] -= errors @ factor[block, block.stop :]
    return decoded


def minmax_grid(group: Tensor, bits: int, _: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and minimum of each row of a group, as stored in f16."""
    minimum = group.amin(1).half().float()
    scale = ((group.amax(1) - minimum) / (2**bits - 1)).half().float()
    return torch.where(scale == 0, 1.0, scale), minimum


def lsq_grid(group: Tensor, bits: int, _: Tensor) -> tuple[Tensor, Tensor]:
    """As `minmax_grid`, with the scale and minimum of thermoq's `lsq`."""
    return _fitted(group, bits, None)


def weighted_lsq_grid(group: Tensor, bits: int, factors: Tensor) -> tuple[Tensor, Tensor]:
    """As `lsq_grid`; an error counts as much as it adds to the loss, the rest compensated.

    With `factors` the factor's diagonal at the group's columns, that is `1 / factors^2` (Frantar et
    al., equation 2).
    """
    return _fitted(group, bits, factors.square().reciprocal())


def _fitted(group: Tensor, bits: int, importances: Tensor | None) -> tuple[Tensor, Tensor]:
    from thermoq.weights import Matrix, Scheme, quantize

    values = np.ascontiguousarray(group.numpy())
    matrix = Matrix(values.reshape(-1).view(np.uint8), "F32", *values.shape)
    stored, _ = quantize(
        matrix,
        Scheme("affine", bits, group.shape[1]),
        method="lsq",
        importances=None if importances is None else importances.numpy(),
        threads=1,
    )
    scale, minimum = (
        torch.from_numpy(stored.parts[part][:, 0].astype(np.float32))
        for part in ("scale", "minimum")
    )
    return torch.where(scale == 0, 1.0, scale), minimum


_GRIDS = {"minmax": minmax_grid, "lsq": lsq_grid, "weighted lsq": weighted_lsq_grid}


def replace_weights(
    model: Path, dense: Path, report: Report, calibration: Path, grid: Grid
) -> None:
    """Put the reference's weights in place of the affine ones of the checkpoint `dense`."""
    from safetensors.torch import load_file, save_file
    from thermoq.calibration.file import layer_name, read_calibration

    inputs = read_calibration(calibration)
    for path in sorted(dense.rglob("*.safetensors")):
        component = path.parent.relative_to(dense).as_posix().strip(".")
        tensors = load_file(path)
        source = load_file(model / path.relative_to(dense))
        for layer in report.layers:
            seen = inputs.input_of(layer_name(layer.component, layer.name))
            if layer.component != component or layer.encoding != "affine" or seen is None:
                continue
            assert layer.bit_width is not None
            assert layer.group_size is not None
            weight = source[layer.name].float()
            rows = torch.from_numpy(seen.sample())
            matrix = weight.reshape(len(weight), -1)
            decoded = gptq(matrix, rows, layer.bit_width, layer.group_size, grid)
            tensors[layer.name] = decoded.reshape(weight.shape)
        save_file(tensors, path, {"format": "pt"})
