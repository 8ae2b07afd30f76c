#!/usr/bin/env python3
"""How fast is INT2 `minmax` beside the same operation in torch, and beside HQQ's quantizer?

All sides quantize the same f32 matrix on as many threads, in turns. thermoq's time includes the
error figures (squared error, both energies, the largest error); where a torch version leaves them
out, its line says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from measuring import THREADS, Options, Result, alternate, gigabytes_per_s, main, note, summarize

if TYPE_CHECKING:
    from thermoq.weights import QuantizedMatrix, WeightError
    from torch import Tensor

ROWS = COLS = 4096
BLOCK_ROWS = 256
HQQ_ROWS = 1024  # a quarter of the matrix: seconds a call
HQQ_RUNS = 5
GROUP_SIZE = 64
LEVELS = 3.0


def measure(options: Options) -> list[Result]:
    """thermoq's advantage over each of the others."""
    if importlib.util.find_spec("torch") is None:
        return [Result("beside torch and HQQ", None, detail="needs thermoq[torch,bench]")]
    import torch

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    weight = 0.02 * torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    check_same_codes(weight)
    codes_only, all_of_it = torch_quantize, torch_quantize_and_measure
    runs = options.runs
    return [
        beside("torch", weight, in_blocks(all_of_it), runs, 3),
        beside("torch, no error figures", weight, in_blocks(codes_only), runs, 3),
        beside("torch.compile", weight, compile_faithfully(all_of_it), runs),
        beside("torch.compile, no error figures", weight, compile_faithfully(codes_only), runs),
        beside_hqq(weight[:HQQ_ROWS]),
    ]


def beside(
    name: str,
    weight: Tensor,
    theirs: Callable[[Tensor], object],
    runs: int,
    target: float | None = None,
) -> Result:
    """How many times as fast as `theirs` thermoq is."""
    note(f"peers: {name}")
    ours_s, theirs_s = alternate(thermoq_quantize(weight), lambda: theirs(weight), runs)
    ratios = [their / our for our, their in zip(ours_s, theirs_s, strict=True)]
    our_s, their_s = (sorted(times)[len(times) // 2] for times in (ours_s, theirs_s))
    nbytes = weight.numel() * 4
    return summarize(
        f"minmax INT2, beside {name}",
        ratios,
        "x",
        target=target,
        detail=(
            f"{1000 * our_s:.1f} against {1000 * their_s:.1f} ms; "
            f"{gigabytes_per_s(nbytes, our_s)} of {weight.shape[0]} x {weight.shape[1]} f32"
        ),
    )


def beside_hqq(weight: Tensor) -> Result:
    """HQQ's quantizer with its own defaults but for the bits, the group size and the device."""
    name = "HQQ, its defaults"
    if importlib.util.find_spec("hqq") is None:
        return Result(f"minmax INT2, beside {name}", None, detail="needs thermoq[bench]")
    note("peers: importing hqq")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = importlib.import_module("hqq.core.quantize").Quantizer

    def hqq_quantize(w: Tensor) -> object:
        return quantizer.quantize(w, nbits=2, group_size=GROUP_SIZE, device="cpu")

    return beside(name, weight, hqq_quantize, HQQ_RUNS, 20)


def thermoq_quantize(weight: Tensor) -> Callable[[], tuple[QuantizedMatrix, WeightError]]:
    """A call of thermoq on the matrix."""
    import numpy as np
    from thermoq.weights import Matrix, Scheme, quantize

    data = weight.numpy().reshape(-1).view(np.uint8)
    matrix, scheme = Matrix(data, "F32", *weight.shape), Scheme("affine", 2, GROUP_SIZE)
    return lambda: quantize(matrix, scheme, threads=THREADS)


def torch_quantize(weight: Tensor) -> tuple[Tensor, ...]:
    """Packed codes, scales and minima of `weight` [rows, cols] by round-to-nearest.

    Parameters are rounded to f16 (to nearest, which is cheaper than outwards) before codes are
    fitted to them. `amin` and `amax` are faster than `aminmax`, and one multiplication that moves
    four codes into one byte is faster than four shifts.
    """
    codes, scale, minimum = _codes(weight)
    return _packed(codes), scale, minimum


def torch_quantize_and_measure(weight: Tensor) -> tuple[Tensor, ...]:
    """The same with the error figures: their parts by row, as a compiler fuses those best."""
    codes, scale, minimum = _codes(weight)
    decoded = (codes * scale.float() + minimum.float()).view(weight.shape)
    error = decoded - weight
    figures = (
        error.square().sum(1),
        weight.square().sum(1),
        decoded.square().sum(1),
        error.abs().amax(1),
    )
    return _packed(codes), scale, minimum, *figures


def _codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    x = weight.view(-1, GROUP_SIZE)
    minimum = x.amin(1, keepdim=True).half()
    scale = ((x.amax(1, keepdim=True) - minimum.float()) / LEVELS).half()
    inverse = torch.where(scale > 0, 1 / scale.float(), 0.0)
    codes = (x - minimum.float()).mul_(inverse).round_().clamp_(0, LEVELS)
    return codes, scale, minimum


def _packed(codes: Tensor) -> Tensor:
    import torch

    four_bytes = codes.to(torch.uint8).view(torch.int32)
    return ((four_bytes * 0x01041040) >> 24).to(torch.uint8)


def in_blocks(
    function: Callable[[Tensor], tuple[Tensor, ...]],
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Eager torch's best: rows by the block, so that a block's intermediates stay in the caches."""
    import torch

    def by_blocks(weight: Tensor) -> tuple[Tensor, ...]:
        starts = range(0, weight.shape[0], BLOCK_ROWS)
        blocks = [function(weight[start : start + BLOCK_ROWS]) for start in starts]
        return tuple(torch.cat(parts) for parts in zip(*blocks, strict=True))

    return by_blocks


def compile_faithfully(
    function: Callable[[Tensor], tuple[Tensor, ...]],
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Compile for these shapes; without the setting the rounding to f16 would be optimized away."""
    import torch
    from torch._inductor import config

    config.emulate_precision_casts = True
    return torch.compile(function, dynamic=False)


def check_same_codes(weight: Tensor) -> None:
    """Say so if torch and thermoq do not do the same: rounding of parameters aside, they do."""
    import numpy as np

    quantized, _ = thermoq_quantize(weight)()
    packed = torch_quantize(weight)[0].numpy().reshape(-1)
    same = np.mean(quantized.parts["codes"].reshape(-1) == packed)
    note(f"peers: {100 * same:.1f} % of the packed bytes are the same in torch and thermoq")


if __name__ == "__main__":
    main(measure, __doc__)
