"""The data-free quantizers that users of thermoq know, each as its own documentation calls it.

Where a package keeps group parameters in the model's dtype, the model is f16: the fewest bits at
the same error. A package that cannot be imported gives a `Missing` with the reason.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ggml
from quantizers import Missing, Quantizer

if TYPE_CHECKING:
    from quantizers import Weights
    from torch import Tensor

BLOCK_ROWS = 256
LLAMA_TYPES = tuple(ggml.TYPE_IDS)


def peers() -> list[Quantizer | Missing]:
    """All families that can be measured here, and the others with what they lack."""
    families: dict[str, Callable[[], list[Quantizer]]] = {
        "round-to-nearest": _round_to_nearest,
        "llama.cpp": _llama_cpp,
        "HQQ": _hqq,
        "quanto": _quanto,
        "OrbitQuant": _orbitquant,
    }
    return [one for family, build in families.items() for one in _attempt(family, build)]


def _attempt(family: str, build: Callable[[], list[Quantizer]]) -> Sequence[Quantizer | Missing]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build()
    except (ImportError, OSError, AttributeError) as error:  # OSError: a shared library
        return [Missing(family, f"{type(error).__name__}: {error}")]


def _llama_cpp() -> list[Quantizer]:
    def of(kind: ggml.BlockType) -> Quantizer:
        return Quantizer(
            "llama.cpp",
            kind.name + (" *" if kind.needs_importances else ""),
            quantize=lambda weight, threads: (ggml.quantize(weight, kind, threads), weight.shape),
            bits=lambda stored: 8 * int(stored[0].nbytes),
            decode=lambda stored: ggml.dequantize(stored[0], kind, stored[1]),
            drawn=kind.name != "TQ2_0",  # for models trained with three levels: 0.67 on others
        )

    return [of(ggml.block_type(name)) for name in LLAMA_TYPES]


def _hqq() -> list[Quantizer]:
    """`Quantizer.quantize` with what `BaseQuantizeConfig` sets by default for bits and group."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.core.quantize import Quantizer as Hqq

    def of(bits: int, group: int) -> Quantizer:
        settings = BaseQuantizeConfig(nbits=bits, group_size=group)["weight_quant_params"]

        def store(weight: Tensor, threads: int) -> tuple[Tensor, dict[str, Any]]:
            packed, meta = Hqq.quantize(weight, **settings, device="cpu")
            return packed, {
                name: value.half() if torch.is_tensor(value) else value
                for name, value in meta.items()
            }

        return Quantizer(
            "HQQ",
            f"{bits} bits g{group}",
            quantize=store,
            bits=lambda stored: _bits(stored[0], stored[1]["scale"], stored[1]["zero"]),
            decode=lambda stored: Hqq.dequantize(*stored).float().numpy(),
            prepare=torch.from_numpy,
        )

    return [of(2, 64), of(2, 32), of(2, 16), of(4, 64), of(8, 64)]


def _quanto() -> list[Quantizer]:
    """What `optimum.quanto.quantize` and `freeze` do to a Linear: axis 0, groups of 128 or less."""
    import torch
    from optimum import quanto

    def groups(bits: int, group: int, optimizer: Any, suffix: str = "") -> Quantizer:
        kind = quanto.qtypes[f"qint{bits}"]

        def store(weight: Tensor, threads: int) -> Any:
            scale, shift = optimizer(weight, qtype=kind, axis=0, group_size=group)
            return quanto.quantize_weight(weight, kind, 0, scale, shift, group, optimized=False)

        return Quantizer(
            "quanto",
            f"qint{bits} g{group}{suffix}",
            quantize=store,
            bits=lambda stored: _bits(stored._data._data, stored._scale, stored._shift),
            decode=lambda stored: stored.dequantize().float().numpy(),
            prepare=_half,
        )

    def rows() -> Quantizer:
        def store(weight: Tensor, threads: int) -> Any:
            scale = quanto.AbsmaxOptimizer()(weight, qtype=quanto.qint8, axis=0)
            return quanto.quantize_weight(weight, quanto.qint8, 0, scale, optimized=False)

        return Quantizer(
            "quanto",
            "qint8",
            quantize=store,
            bits=lambda stored: _bits(stored._data, stored._scale),
            decode=lambda stored: stored.dequantize().float().numpy(),
            prepare=_half,
        )

    with torch.no_grad():
        plain, hqq = quanto.MaxOptimizer(), quanto.HqqOptimizer()
    by_groups = [groups(bits, group, plain) for bits in (2, 4) for group in (128, 64)]
    return [*by_groups, *(groups(bits, 64, hqq, " HqqOptimizer") for bits in (2, 4)), rows()]


def _orbitquant() -> list[Quantizer]:
    """`OrbitQuantLinear.from_weight`, which `quantize_model` calls; decoded as its exporter does.

    The first call of a width and a number of columns builds a codebook and keeps it on the disk;
    the calls that are not timed here include it.
    """
    os.environ.setdefault("ORBITQUANT_KERNELS_AUTOFETCH", "0")  # quantizing needs no kernels
    import torch
    from orbitquant import OrbitQuantConfig
    from orbitquant.layers import OrbitQuantLinear

    def of(bits: int) -> Quantizer:
        config = OrbitQuantConfig(weight_bits=bits)

        def store(weight: Tensor, threads: int) -> OrbitQuantLinear:
            return OrbitQuantLinear.from_weight(
                weight,
                bias=None,
                in_features=weight.shape[1],
                out_features=weight.shape[0],
                source_weight_layout="out_in",
                config=config,
                module_name="weight",
            )

        def decode(layer: OrbitQuantLinear) -> Weights:
            rotated = layer._dequantize_weight(device=torch.device("cpu"), dtype=torch.float32)
            original: Weights = layer.rotation.apply_inverse_to_weight(rotated).numpy()
            return original

        return Quantizer(
            "OrbitQuant",
            f"{bits} bits",
            quantize=store,
            bits=lambda layer: _bits(layer.packed_weight_indices, layer.row_norms),
            decode=decode,
            prepare=torch.from_numpy,
        )

    return [of(bits) for bits in (2, 3, 4, 6)]


def _round_to_nearest() -> list[Quantizer]:
    """Plain round-to-nearest in torch: f16 parameters per group, rows by the block."""
    import torch

    def of(bits: int, group: int) -> Quantizer:
        def store(weight: Tensor, threads: int) -> tuple[Any, ...]:
            blocks = [_nearest(block, bits, group) for block in weight.split(BLOCK_ROWS)]
            return (*(torch.cat(parts) for parts in zip(*blocks, strict=True)), weight.shape)

        def decode(stored: tuple[Any, ...]) -> Weights:
            packed, scale, minimum, shape = stored
            codes = torch.stack([packed >> at & (1 << bits) - 1 for at in range(0, 8, bits)], 1)
            decoded = codes.view(-1, group) * scale.float() + minimum.float()
            original: Weights = decoded.view(shape).numpy()
            return original

        return Quantizer(
            "round-to-nearest",
            f"INT{bits} g{group}",
            quantize=store,
            bits=lambda stored: _bits(*stored[:3]),
            decode=decode,
            prepare=torch.from_numpy,
        )

    return [of(2, 64), of(2, 32), of(4, 64), of(4, 32), of(8, 64)]


def _nearest(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Packed codes, scales and minima; codes are fitted to the rounded parameters."""
    import torch

    levels = (1 << bits) - 1
    x = weight.reshape(-1, group)
    minimum = x.amin(1, keepdim=True).half()
    scale = ((x.amax(1, keepdim=True) - minimum.float()) / levels).half()
    inverse = torch.where(scale > 0, 1 / scale.float(), 0.0)
    codes = (x - minimum.float()).mul_(inverse).round_().clamp_(0, levels).to(torch.uint8)
    fields = codes.view(-1, 8 // bits)
    packed = fields[:, 0].clone()
    for field in range(1, 8 // bits):
        packed |= fields[:, field] << (field * bits)
    return packed, scale, minimum


def _half(weight: Weights) -> Tensor:
    import torch

    return torch.from_numpy(weight).half()


def _bits(*tensors: Tensor) -> int:
    return 8 * sum(tensor.nbytes for tensor in tensors)
