"""What the Pareto benchmark compares: one interface for thermoq and for everybody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from thermoq.encodings import EncodingChoice

    Weights = NDArray[np.float32]  # [rows, cols]

OURS = "thermoq"

# Bit width, group size, bits of the group's scale and minimum; super-blocks by default.
CODED = (
    (2, 8, 3, 3),
    (2, 8, 4, 4),
    (2, 16, 2, 3),
    (2, 16, 3, 3),
    (2, 16, 4, 4),
    (2, 32, 3, 3),
    (2, 32, 4, 4),
    (2, 64, 4, 3),
    (4, 16, 4, 4),
    (4, 16, 6, 6),
    (4, 32, 4, 4),
    (4, 32, 6, 6),
    (4, 64, 4, 4),
)

EFFORTS = (1, 2, 3, 4, 5)  # of trellis codes


@dataclass(frozen=True)
class Quantizer:
    """A way to store a matrix in few bits.

    `prepare` turns f32 weights [rows, cols] into what `quantize` wants, untimed. `quantize` takes
    that and the number of threads. `bits` counts all that would lie on the disk, and `decode`
    gives the weights that come back.
    """

    family: str
    name: str
    quantize: Callable[[Any, int], Any]
    bits: Callable[[Any], int]
    decode: Callable[[Any], Weights]
    prepare: Callable[[Weights], Any] = lambda weight: weight
    default_of: int | None = None  # the bit width that this is thermoq's default of
    drawn: bool = True  # in the picture

    @property
    def label(self) -> str:
        """Family and name."""
        return f"{self.family} {self.name}"


@dataclass(frozen=True)
class Missing:
    """A family that cannot be measured here, and why."""

    family: str
    reason: str


def ours() -> list[Quantizer]:
    """thermoq's encodings: `minmax`, `lsq` with f16 parameters, coded ones, and trellis codes.

    Those of trellis codes are rotated, as they are in a run. A default that is also listed by its
    settings counts once.
    """
    from thermoq.encodings import EncodingChoice

    groups, widths = (128, 64, 32, 16), (2, 4)
    affine = [(bits, EncodingChoice("lsq", "affine", g)) for bits in widths for g in groups]
    minmax = [(bits, EncodingChoice("minmax", "affine", g)) for bits in widths for g in groups[:3]]
    coded = [
        (bits, EncodingChoice("lsq", "coded", group, None, scale, minimum))
        for bits, group, scale, minimum in CODED
    ]
    trellis = [
        (bits, EncodingChoice("lsq", "trellis", effort=effort))
        for bits in (2, 3, 4)
        for effort in EFFORTS
    ]
    defaults = [(bits, EncodingChoice()) for bits in (2, 4, 8)]
    q8 = [(8, EncodingChoice("minmax"))]
    found = [
        _thermoq(bits, choice) for bits, choice in defaults + affine + coded + trellis + minmax + q8
    ]
    return list({one.name: one for one in found}.values())


def _thermoq(bit_width: int, choice: EncodingChoice) -> Quantizer:
    import numpy as np
    from thermoq.encodings import EncodingChoice, scheme_for
    from thermoq.methods import quantize_layer
    from thermoq.rotation import Rotation
    from thermoq.weights import Matrix, QuantizedMatrix, dequantize, quantize

    def store(weight: Weights, threads: int) -> QuantizedMatrix:
        matrix = Matrix(weight.reshape(-1).view(np.uint8), "F32", *weight.shape)
        scheme = scheme_for(bit_width, matrix.cols, choice, matrix.rows)
        if scheme.encoding != "trellis":
            return quantize(matrix, scheme, method=choice.method, threads=threads)[0]
        rotation = Rotation(0, matrix.cols)  # as a run has it
        return quantize_layer(matrix, scheme, "lsq", rotation=rotation, threads=threads).matrix

    name = _name(bit_width, choice)
    defaults = [_name(bits, EncodingChoice()) for bits in (2, 4, 8)]
    return Quantizer(
        OURS,
        name,
        quantize=store,
        bits=lambda stored: 8 * sum(part.nbytes for part in stored.parts.values()),
        decode=lambda stored: dequantize(stored).view(np.float32).reshape(stored.rows, stored.cols),
        default_of=bit_width if name in defaults else None,
    )


def _name(bit_width: int, choice: EncodingChoice) -> str:
    """Such as "lsq INT2 coded g16 4+4": group size, bits of the group's scale and minimum.

    Or "lsq INT2 trellis e5", its effort.
    """
    from thermoq.encodings import DEFAULT_EFFORT

    encoding, group = choice.encoding_of(bit_width), choice.group_size_of(bit_width)
    if encoding == "trellis":
        return f"{choice.method} INT{bit_width} trellis e{choice.effort or DEFAULT_EFFORT}"
    name = f"{choice.method} INT{bit_width} {encoding} g{group}"
    if encoding != "coded":
        return name
    return f"{name} {choice.scale_bits_of(bit_width)}+{choice.minimum_bits_of(bit_width)}"
