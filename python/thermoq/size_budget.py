"""Gives every tensor whose bits are not fixed the scheme with which all fit a size budget.

`target_bits` counts the stored bits of the quantized tensors over their weights; `max_size` the
bytes of the quantized components' safetensors files, headers and copied tensors included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from thermoq.budget import Candidate, ErrorCurve, allocate, smallest_bytes
from thermoq.candidates import kind_of
from thermoq.checkpoint.writer import WrittenFiles, planned_files
from thermoq.config import QuantizationConfig
from thermoq.error_curves import MeasuredTensor, TensorKey
from thermoq.errors import UsageError
from thermoq.plan import ComponentPlan, TensorPlan
from thermoq.summary import scheme_rows
from thermoq.weights import Scheme

_ROUNDED_OFF = Fraction(1, 1000)  # of a byte
_ROUNDS = 8  # of counting headers exactly and choosing again; two are usual


@dataclass(frozen=True)
class Fitted:
    """Plans within the budget; `lower_bound` is the summed error that no others could get below."""

    plans: tuple[ComponentPlan, ...]
    lower_bound: float


def fit(
    plans: Sequence[ComponentPlan],
    measured: Mapping[TensorKey, MeasuredTensor],
    config: QuantizationConfig,
) -> Fitted:
    """Choose among the measured candidates of all tensors, whatever their component.

    Raises UsageError, with the smallest possible one, for a budget that cannot be met.
    """
    problem = _Problem(plans, measured, config.max_shard_bytes)
    if config.target_bits is not None:
        return problem.within_bits(config.target_bits, config.place_of("target_bits"))
    assert config.max_size is not None
    assert config.max_size_bytes is not None
    place = config.place_of("max_size")
    return problem.within_files(config.max_size_bytes, config.max_size, place)


def headline_settings(
    config: QuantizationConfig, plans: Sequence[ComponentPlan]
) -> QuantizationConfig:
    """Return the settings that stand for a run where one bit width and encoding is asked for.

    With a size budget those that most of the body's weights have, else the run's own.
    """
    tensors = [tensor for part in plans for tensor in part.tensors]
    body = [tensor for tensor in tensors if tensor.layer.layer_class == "body"]
    rows = scheme_rows(body or tensors)
    if not config.has_budget or not rows:
        return config
    most = max(rows, key=lambda row: row.num_weights)
    is_q8 = most.encoding == "q8"
    group_size = config.group_size if most.encoding == "trellis" else most.group_size
    return config.model_copy(
        update={
            "bit_width": most.bit_width,
            "encoding": None if is_q8 else most.encoding,
            "group_size": None if is_q8 else group_size,
            "scale_bits": most.scale_bits,
            "minimum_bits": most.minimum_bits,
        }
    )


def files_of(plans: Sequence[ComponentPlan], max_shard_bytes: int) -> WrittenFiles:
    """Return the safetensors files that all components' plans come to."""
    each = [
        planned_files(
            Path(plan.component.name),
            plan.component.stem,
            plan.stored_parts,
            max_shard_bytes,
            plan.late_parts,
        )
        for plan in plans
    ]
    return WrittenFiles(
        tuple(path for one in each for path in one.paths),
        sum(one.total_bytes for one in each),
        sum(one.header_bytes for one in each),
    )


class _Problem:
    """The stored tensors, their curves, and the choices to compare with."""

    def __init__(
        self,
        plans: Sequence[ComponentPlan],
        measured: Mapping[TensorKey, MeasuredTensor],
        max_shard_bytes: int,
    ) -> None:
        self._plans = plans
        self._max_shard_bytes = max_shard_bytes
        tensors = {(part.component.name, t.tensor.name): t for part in plans for t in part.tensors}
        self._keys = list(measured)
        self._tensors = [tensors[key] for key in self._keys]
        self._curves = [measured[key].curve for key in self._keys]
        self._uniform = _uniform_choices(self._curves)

    def within_bits(self, target_bits: float, place: str) -> Fitted:
        num_weights = sum(
            tensor.num_weights for part in self._plans for tensor in part.tensors if tensor.scheme
        )
        if num_weights == 0:
            return Fitted(tuple(self._plans), 0.0)
        # The decimal number that was typed, not the binary one below or above it; and a quotient
        # of bytes and weights means those bytes, however it was rounded.
        beside = sum(tensor.time_bytes for part in self._plans for tensor in part.tensors)
        most = math.floor(Fraction(repr(target_bits)) * num_weights / 8 + _ROUNDED_OFF) - beside
        least = smallest_bytes(self._curves)
        if least > most:
            fewest = _up_to_thousandths(8 * (least + beside), num_weights)
            raise UsageError(
                f"{place}: expected at least {fewest} (the fewest bits per quantized weight that "
                f"these settings and `layers` rules allow), got {target_bits:g}"
            )
        found = allocate(self._curves, most, self._uniform)
        return Fitted(self._applied(found.choices), found.lower_bound)

    def within_files(self, max_bytes: int, typed: str | int, place: str) -> Fitted:
        """Choose with a bound on what headers take; what it leaves over is counted and spent."""
        curves = [
            _with_headers(tensor, curve, max_bytes)
            for tensor, curve in zip(self._tensors, self._curves, strict=True)
        ]
        smallest = [
            min(range(len(curve.candidates)), key=lambda i: curve.candidates[i].stored_bytes)
            for curve in curves
        ]
        best = self._applied(smallest)
        nbytes = self._file_bytes(best)
        if nbytes > max_bytes:
            raise UsageError(
                f"{place}: expected at least {_size_text(nbytes)} (the smallest that these "
                f"settings and `layers` rules allow), got {typed}"
            )
        least, bound = math.inf, 0.0
        rest = nbytes - smallest_bytes(curves)  # copied tensors, and what the bounds are too high
        for _ in range(_ROUNDS):
            if max_bytes - rest < smallest_bytes(curves):
                break
            found = allocate(curves, max_bytes - rest, self._uniform)
            plans = self._applied(found.choices)
            nbytes = self._file_bytes(plans)
            if nbytes <= max_bytes and found.squared_error < least:
                best, least, bound = plans, found.squared_error, found.lower_bound
            rest_now = nbytes - found.stored_bytes
            if nbytes <= max_bytes and rest_now >= rest:
                break
            rest = rest_now if rest_now != rest else rest + nbytes - max_bytes
        for start in self._uniform:  # which the bounds may have kept out by a few bytes
            error = sum(curve.cost(i) for curve, i in zip(curves, start, strict=True))
            if error < least and self._file_bytes(plans := self._applied(start)) <= max_bytes:
                best, least = plans, error
        return Fitted(best, min(bound, least))

    def _applied(self, choices: Sequence[int]) -> tuple[ComponentPlan, ...]:
        schemes = {
            key: curve.candidates[choice].scheme
            for key, curve, choice in zip(self._keys, self._curves, choices, strict=True)
        }
        return tuple(_with_schemes(part, schemes) for part in self._plans)

    def _file_bytes(self, plans: Sequence[ComponentPlan]) -> int:
        return files_of(plans, self._max_shard_bytes).total_bytes


def _with_schemes(part: ComponentPlan, schemes: Mapping[TensorKey, Scheme]) -> ComponentPlan:
    tensors = []
    for plan in part.tensors:
        scheme = schemes.get((part.component.name, plan.same_as or plan.tensor.name))
        if scheme is not None:
            layer = replace(plan.layer, bit_width=scheme.bit_width)
            plan = replace(plan, scheme=scheme, layer=layer)
        tensors.append(plan)
    return replace(part, tensors=tuple(tensors))


def _with_headers(plan: TensorPlan, curve: ErrorCurve, file_bytes: int) -> ErrorCurve:
    """Return the curve with the most that each candidate adds to its file, header included."""
    candidates = []
    for one in curve.candidates:
        parts = replace(plan, scheme=one.scheme).encoded_parts
        header = sum(part.most_header_bytes(file_bytes) for part in parts)
        candidates.append(Candidate(one.scheme, one.stored_bytes + header, one.squared_error))
    return replace(curve, candidates=tuple(candidates))


def _uniform_choices(curves: Sequence[ErrorCurve]) -> list[list[int]]:
    """Return the choices that treat all tensors alike: each scheme wherever it is a candidate.

    Elsewhere, as for modulation in a run of 2 bits, the last one of as many bits, or the next more.
    """
    kinds = dict.fromkeys(kind_of(one.scheme) for curve in curves for one in curve.candidates)
    return [[_alike(curve, kind) for curve in curves] for kind in kinds]


def _alike(curve: ErrorCurve, kind: Scheme) -> int:
    schemes = [one.scheme for one in curve.candidates]
    for i, scheme in enumerate(schemes):
        if kind_of(scheme) == kind:
            return i
    more = [scheme.bit_width for scheme in schemes if scheme.bit_width >= kind.bit_width]
    bits = min(more, default=max(scheme.bit_width for scheme in schemes))
    return max(i for i, scheme in enumerate(schemes) if scheme.bit_width == bits)


def _up_to_thousandths(numerator: int, denominator: int) -> str:
    """Return a quotient, rounded up to three decimals."""
    thousandths = -(-1000 * numerator // denominator)
    return f"{thousandths // 1000}.{thousandths % 1000:03d}".rstrip("0").rstrip(".")


def _size_text(nbytes: int) -> str:
    """Return a size as `max_size` takes it, rounded up to a thousandth of its unit."""
    for unit, base in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if nbytes >= base:
            return f"{_up_to_thousandths(nbytes, base)}{unit}"
    return f"{nbytes}B"
