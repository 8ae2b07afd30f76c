"""The ways to store a model's weights that the benchmarks of calibrated methods compare.

A variant is made as a user would make it: `thermoq.quantize`, then `thermoq.export` to f32. Only
the weights differ from the original's; activations stay f32.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thermoq
import yaml
from measuring import note, seconds, shown
from thermoq.errors import UsageError

if TYPE_CHECKING:
    from gptq_reference import Grid
    from reports import Options

AFFINE: Mapping[str, object] = {"encoding": "affine", "group_size": 64}
CODED: Mapping[str, object] = {"encoding": "coded"}
BIT_WIDTH = 2
COST = ("bits/weight", "quantize, s")
MODEL_ITSELF = "trajectory"  # the calibration along the model's own trajectory alone


@dataclass(frozen=True)
class Variant:
    """Settings of `thermoq.quantize`; `calibration` names the calibration that it takes, if any.

    With `grid`, the matrices of 2 and 4 bits are then replaced by the GPTQ reference's.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    calibration: str | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Dense:
    """A variant as a directory of f32 weights, and what it cost."""

    directory: Path
    bits_per_weight: float
    quantize_s: float

    @property
    def cost(self) -> list[str]:
        """The cells that all tables have, below `COST`."""
        return [f"{self.bits_per_weight:.3f}", shown(self.quantize_s)]


@dataclass(frozen=True)
class Missing:
    """A variant that this version of thermoq refuses, and its reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: not measured, {self.reason}"


MINMAX = Variant("minmax", {"method": "minmax", **AFFINE})
LSQ = Variant("lsq", {"method": "lsq", **AFFINE})


def standard(calibration: str) -> tuple[Variant, ...]:
    """Return what every table shows: the methods on the same grid, then coded and trellis codes.

    `hessian` and the importances take the calibration of this name.
    """
    hessian: Mapping[str, object] = {"method": "hessian", "rotation": "none"}
    rotated: Mapping[str, object] = {"method": "hessian", "rotation": "hadamard"}
    return (
        MINMAX,
        LSQ,
        Variant("lsq, importances", LSQ.settings, calibration),
        Variant("hessian", {**hessian, **AFFINE}, calibration),
        Variant("hessian, rotated", {**rotated, **AFFINE}, calibration),
        Variant("GPTQ, minmax grid", LSQ.settings, calibration, "minmax"),
        Variant("GPTQ, lsq grid", LSQ.settings, calibration, "lsq"),
        Variant("GPTQ, weighted lsq grid", LSQ.settings, calibration, "weighted lsq"),
        Variant("lsq coded", {"method": "lsq", **CODED}),
        Variant("lsq coded, importances", {"method": "lsq", **CODED}, calibration),
        Variant("hessian coded", {**hessian, **CODED}, calibration),
        Variant("hessian coded, rotated", {**rotated, **CODED}, calibration),
        Variant("hessian trellis, rotated", {**rotated, "encoding": "trellis"}, calibration),
    )


def parsed(text: str, calibration: str) -> Variant:
    """Return the variant of a line such as `method=hessian,encoding=coded,group_size=32`."""
    pairs = (part.partition("=") for part in text.split(","))
    settings = {key.strip(): yaml.safe_load(value) for key, _, value in pairs}
    needs_none = settings.get("method") in ("minmax", "lsq")
    return Variant(text, settings, None if needs_none else calibration)


def made(
    model: Path,
    calibrations: Mapping[str, Path],
    usual: str,
    options: Options,
    extra: Sequence[Variant] = (),
) -> Iterator[tuple[Variant, Dense | Missing]]:
    """Store `model` in all the ways that were asked for, one after the other.

    Those with data take the calibration `usual`. A directory lasts until the next one comes.
    """
    also = [parsed(text, usual) for text in options.also]
    chosen = [
        one for one in (*standard(usual), *extra) if not options.only or one.name in options.only
    ]
    for variant in [*chosen, *also]:
        note(f"making {variant.name}")
        with tempfile.TemporaryDirectory(prefix="variant-", dir=options.workdir) as place:
            yield variant, _dense(variant, model, calibrations, Path(place), options.threads)


def _dense(
    variant: Variant, model: Path, calibrations: Mapping[str, Path], place: Path, threads: int
) -> Dense | Missing:
    settings: dict[str, Any] = {"bit_width": BIT_WIDTH, "threads": threads, **variant.settings}
    if variant.calibration is not None and variant.grid is None:
        settings["calibration"] = str(calibrations[variant.calibration])
    start = time.perf_counter()
    try:
        report = thermoq.quantize(model, place / "quantized", **settings)
    except UsageError as error:
        return Missing(variant.name, str(error))
    elapsed_s = time.perf_counter() - start
    dense = place / "dense"
    thermoq.export(place / "quantized", dense, dtype="float32")
    if variant.grid is not None and variant.calibration is not None:
        from gptq_reference import replace_weights

        start = time.perf_counter()
        replace_weights(model, dense, report, calibrations[variant.calibration], variant.grid)
        elapsed_s = time.perf_counter() - start
    return Dense(dense, report.sizes.bits_per_weight_quantized, elapsed_s)


def calibrated(model: Path, path: Path, threads: int, **settings: Any) -> Path:
    """Calibrate `model` into `path` unless the file is there already, and say how long it took."""
    if path.exists():
        note(f"calibration: taking {path}")
        return path
    note(f"calibration: writing {path}")
    elapsed_s = seconds(lambda: thermoq.calibrate(model, path, threads=threads, **settings))
    note(f"calibration: took {elapsed_s:.0f} s")
    return path
