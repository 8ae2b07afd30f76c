"""Plausible reports for tests: a small diffusion transformer under the noise-schedule prior.

The figures agree with one another by DESIGN.md's formulas, worked out here in plain Python.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from thermoq.report.model import (
    Assessment,
    CalibrationSummary,
    Characteristic,
    ClassRow,
    CopiedRow,
    LayerRow,
    Pattern,
    Provenance,
    Report,
    Sizes,
)
from thermoq.report.order import full_name
from thermoq.report.thermodynamics_model import (
    Boundary,
    LayerTimeParameters,
    SmoothingSummary,
    SmoothnessBefore,
    Thermodynamics,
    TimeGroupRow,
    Violation,
)
from thermoq.terms import Interpolation, Severity

BLOCK_MODULES = (
    ("attn1.to_q", "body", (1152, 1152)),
    ("attn1.to_k", "body", (1152, 1152)),
    ("attn1.to_v", "body", (1152, 1152)),
    ("attn1.to_out.0", "body", (1152, 1152)),
    ("ff.net.0.proj", "body", (4608, 1152)),
    ("ff.net.2", "body", (1152, 4608)),
    ("norm1.linear", "modulation", (6912, 1152)),
)
NUM_TIMESTEPS = 1000


def example_report(
    *,
    num_layers: int = 23,
    num_time_groups: int = 4,
    components: Sequence[str] = ("transformer",),
    bit_width: int = 2,
    encoding: str = "affine",
    threshold: float = 0.3,
    kappa_scale: float = 1.0,
    validation: bool = True,
    time_parameters: bool = True,
    name_prefix: str = "",
    model_name: str = "dit-xl-example",
    warnings: Sequence[str] = ("pattern 'text_encoder.*' matches no tensor",),
) -> Report:
    """A report of `num_layers` quantized tensors, spread over `components`.

    `encoding` is that of matrices of 2 and 4 bits; "coded" ones are chosen by lsq. `kappa_scale` 0
    makes every jump 0; `validation=False` is a run without the thermodynamic part;
    `time_parameters=False` one in which no layer has time parameters.
    """
    groups = time_groups(num_time_groups)
    layers = [
        _layer(
            index,
            num_layers,
            components,
            groups,
            bit_width,
            encoding,
            threshold,
            kappa_scale,
            name_prefix,
        )
        for index in range(num_layers)
    ]
    if not (validation and time_parameters):
        layers = [layer.model_copy(update={"time_parameters": None}) for layer in layers]
    copied = _copied(components, name_prefix)
    classes = _classes(layers, copied)
    sizes = _sizes(layers, classes)
    thermodynamic = _thermodynamic(layers, groups, threshold) if validation else {}
    error = sum(layer.squared_error for layer in layers)
    energy = sum(layer.source_energy for layer in layers)
    return Report(
        thermoq_version="0.1.0",
        model_name=model_name,
        phase="baseline",
        method="lsq" if encoding == "coded" else "minmax",
        bit_width=bit_width,
        **_stored(bit_width, encoding),
        activation_bits=8,
        num_time_groups=num_time_groups,
        sampling_steps=50,
        settings={"bit_width": bit_width},
        parameter_source="noise-schedule prior" if validation and time_parameters else "none",
        cosine_similarity=math.sqrt(1 - error / energy) if layers else None,
        output_cosine_similarity=None,
        relative_squared_error=error / energy if layers else None,
        compression_ratio=sizes.source_bytes / sizes.model_bytes,
        nominal_compression_ratio=16 / bit_width,
        model_size_mb=sizes.model_bytes / 1e6,
        budget=None,
        optimization=None,
        calibration=None,
        sizes=sizes,
        layer_classes=classes,
        layers=layers,
        copied=copied,
        warnings=list(warnings),
        provenance=_provenance(model_name),
        evaluation=None,
        **thermodynamic,
    )


def smoothed_report(
    *, interpolation: Interpolation = "cubic", window: float | None = None, **given: Any
) -> Report:
    """The example as Phase 2 leaves it; its jumps are still Phase 1's, its windows the default.

    Zero points of every other layer move, so that there are two charts.
    """
    report = example_report(**given)
    thermodynamics = report.thermodynamics
    assert thermodynamics is not None
    widest = NUM_TIMESTEPS / report.num_time_groups / 2
    boundaries = range(report.num_time_groups - 1)
    clamped = window is not None and window > widest
    smoothing = SmoothingSummary(
        interpolation=interpolation,
        window=window,
        windows=[min(widest / 2 if window is None else window, widest) for _ in boundaries],
        clamped_boundaries=list(boundaries) if clamped else [],
    )
    before = SmoothnessBefore(
        smoothness_score=0.6543,
        violation_count=2,
        layer_violation_count=17,
        boundary_scores=[0.6543 for _ in boundaries],
    )
    changed = {
        "smoothing": smoothing,
        "before": before,
        "group_smoothness_score": 0.7012,
        "layer_violation_count": 5,
    }
    layers = [
        layer.model_copy(
            update={
                "time_parameters": layer.time_parameters.model_copy(
                    update={"zero_point": [100.0 + 20 * g for g in range(report.num_time_groups)]}
                )
            }
        )
        if index % 2 and layer.time_parameters
        else layer
        for index, layer in enumerate(report.layers)
    ]
    return report.model_copy(
        update={"layers": layers, "thermodynamics": thermodynamics.model_copy(update=changed)}
    )


def calibrated_report(*, num_bins: int = 20, guidance: float | None = None, **given: Any) -> Report:
    """The example, its parameters measured: the same jumps, from ranges that have them."""
    report = example_report(**given)
    layers = [_measured(row, report.num_time_groups, num_bins) for row in report.layers]
    timed = sum(row.time_parameters is not None for row in layers)
    starts = [NUM_TIMESTEPS - 1 - bin * NUM_TIMESTEPS / num_bins for bin in range(num_bins)]
    summary = CalibrationSummary(
        sampler="DDIMScheduler",
        steps=50,
        guidance=guidance,
        seed=3,
        num_samples=64,
        data_share=0.0,
        bin_starts=starts,
        rows_per_bin=64,
        num_layers=timed,
        not_measured=[full_name(row) for row in layers if row.time_parameters is None],
    )
    provenance = {"calibration_fingerprint": "xxh3-128:" + "a" * 32}
    return report.model_copy(
        update={
            "layers": layers,
            "parameter_source": "calibration" if timed else "none",
            "calibration": summary,
            "provenance": report.provenance.model_copy(update=provenance),
        }
    )


def _measured(row: LayerRow, num_time_groups: int, num_bins: int) -> LayerRow:
    parameters = row.time_parameters
    if parameters is None:
        return row
    groups = [bin * num_time_groups // num_bins for bin in range(num_bins)]
    highs = [100 * parameters.scale[group] for group in groups]
    update = {
        "parameter_source": "calibration",
        "spectral_concentration": None,
        "bin_minimum": [-high * 0.5 for high in highs],
        "bin_maximum": highs,
    }
    return row.model_copy(update={"time_parameters": parameters.model_copy(update=update)})


def time_groups(count: int) -> list[TimeGroupRow]:
    """Uniform time groups of the cosine schedule."""
    rows = []
    for group in range(count):
        start = (NUM_TIMESTEPS - 1) - group * NUM_TIMESTEPS / count
        end = max(0.0, start - NUM_TIMESTEPS / count)
        signal = math.cos(0.5 * math.pi * (start + end) / 2 / NUM_TIMESTEPS) ** 2
        rows.append(
            TimeGroupRow(
                group=group,
                start_timestep=start,
                end_timestep=end,
                signal_variance=signal,
                noise_variance=1 - signal,
            )
        )
    return rows


def _layer(
    index: int,
    count: int,
    components: Sequence[str],
    groups: list[TimeGroupRow],
    bit_width: int,
    encoding: str,
    threshold: float,
    kappa_scale: float,
    name_prefix: str,
) -> LayerRow:
    part = index * len(components) // count
    within = index - -(-part * count // len(components))
    if within == 0:
        module, layer_class, shape = "pos_embed.proj", "sensitive", (1152, 4, 2, 2)
    else:
        block, place = divmod(within - 1, len(BLOCK_MODULES))
        module, layer_class, shape = BLOCK_MODULES[place]
        module = f"transformer_blocks.{block}.{module}"
    bits = {"body": bit_width, "modulation": max(4, bit_width), "sensitive": 8}[layer_class]
    wave = 0.5 + 0.5 * math.sin(2.1 * index) * math.cos(0.37 * index)
    error = {2: 0.13, 4: 0.008, 8: 3e-5}[bits] * (0.7 + 0.6 * wave)
    num_weights = math.prod(shape)
    energy = num_weights * 4e-4
    kappa = 1 + kappa_scale * (1 + 18 * wave**3 + 22 * (index / count) ** 6)
    stored = _stored(bits, encoding, super_block=384)
    bits_per_weight = bits + 0.5
    if stored["encoding"] == "coded":
        parameters = (stored["scale_bits"] + stored["minimum_bits"]) / stored["group_size"]
        bits_per_weight = bits + parameters + 32 / stored["super_block"]
    return LayerRow(
        name=f"{name_prefix}{module}.weight",
        component=components[part],
        layer_class=layer_class,
        shape=list(shape),
        source_dtype="BF16",
        num_weights=num_weights,
        bit_width=bits,
        method="lsq" if encoding == "coded" else "minmax",
        **stored,
        stored_bytes=int(num_weights * bits_per_weight / 8),
        bits_per_weight=bits_per_weight,
        relative_squared_error=error,
        cosine_similarity=math.sqrt(1 - error),
        max_error=0.02 * math.sqrt(error),
        squared_error=error * energy,
        source_energy=energy,
        in_headline=True,
        same_as=None,
        time_parameters=_time_parameters(groups, kappa if kappa_scale else 1.0, threshold),
    )


def _stored(bits: int, encoding: str, super_block: int | None = None) -> dict[str, Any]:
    if bits == 8 or encoding == "affine":
        group_size = 32 if bits == 8 else 64
        keys = dict.fromkeys(("super_block", "scale_bits", "minimum_bits", "window_bits"))
        return {"encoding": "q8" if bits == 8 else "affine", "group_size": group_size, **keys}
    width = {2: 4, 4: 6}[bits]
    return {
        "encoding": "coded",
        "group_size": 8 * bits,
        "super_block": super_block,
        "scale_bits": width,
        "minimum_bits": width,
        "window_bits": None,
    }


def _time_parameters(
    groups: list[TimeGroupRow], kappa: float, threshold: float
) -> LayerTimeParameters:
    scale = [math.sqrt(row.signal_variance * kappa + row.noise_variance) for row in groups]
    unclipped = [abs(b - a) / a for a, b in itertools.pairwise(scale)]
    jumps = [min(1.0, jump) for jump in unclipped]
    scores = [1 - jump / 2 for jump in jumps]
    return LayerTimeParameters(
        parameter_source="noise-schedule prior",
        spectral_concentration=kappa,
        scale=scale,
        zero_point=[128.0] * len(scale),
        scale_jump=jumps,
        zero_point_jump=[0.0] * len(jumps),
        unclipped_scale_jump=unclipped,
        boundary_scores=scores,
        smoothness_score=sum(scores) / len(scores) if scores else 1.0,
        violation_count=sum(jump > threshold for jump in jumps),
    )


def severity_of(jump: float, threshold: float) -> Severity | None:
    """DESIGN.md section 5: by the larger jump, where it exceeds the threshold."""
    if jump <= threshold:
        return None
    return "high" if jump > 0.5 else "medium" if jump >= 0.3 else "low"


def _thermodynamic(
    layers: list[LayerRow], groups: list[TimeGroupRow], threshold: float
) -> dict[str, object]:
    timed = [layer for layer in layers if layer.time_parameters is not None]
    weight = sum(layer.num_weights for layer in timed)
    boundaries = []
    for index in range(len(groups) - 1 if timed else 0):
        jump, unclipped = (
            sum(layer.num_weights * getattr(layer.time_parameters, key)[index] for layer in timed)
            / weight
            for key in ("scale_jump", "unclipped_scale_jump")
        )
        boundaries.append(
            Boundary(
                boundary_idx=index,
                timestep=groups[index + 1].start_timestep,
                scale_jump=jump,
                zero_point_jump=0.0,
                unclipped_scale_jump=unclipped,
                unclipped_zero_point_jump=0.0,
                score=1 - jump / 2,
                severity=severity_of(jump, threshold),
            )
        )
    violations = [
        Violation(
            boundary_idx=row.boundary_idx,
            scale_jump=row.scale_jump,
            zero_point_jump=row.zero_point_jump,
            severity=row.severity,
        )
        for row in boundaries
        if row.severity is not None
    ]
    scores = [row.score for row in boundaries] or [1.0]
    mean = sum(scores) / len(scores)
    worst = sorted(timed, key=lambda layer: layer.time_parameters.smoothness_score)
    known = bool(timed)
    return {
        "smoothness_score": mean if known else None,
        "violation_count": len(violations) if known else None,
        "violations": violations,
        "boundary_scores": [row.score for row in boundaries],
        "min_boundary_score": min(scores) if known else None,
        "max_boundary_score": max(scores) if known else None,
        "mean_boundary_score": mean if known else None,
        "std_boundary_score": (
            math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores)) if known else None
        ),
        "common_violation_patterns": [
            f"Violations at boundaries: {[row.boundary_idx for row in violations]}"
        ]
        if violations
        else [],
        "thermodynamics": Thermodynamics(
            smoothness_threshold=threshold,
            max_possible_jump=2.0 * (len(groups) - 1),
            total_jump=sum(row.scale_jump for row in boundaries) if known else None,
            boundaries=boundaries,
            time_groups=groups,
            schedule="cosine (no scheduler configuration found)",
            num_timesteps=NUM_TIMESTEPS,
            num_layers_with_time_parameters=len(timed),
            worst_layers=[f"{row.component}/{row.name}".lstrip("/") for row in worst[:5]],
        ),
        "patterns": _patterns([row.boundary_idx for row in violations]),
        "assessment": _assessment(mean if known else None, violations),
    }


def _patterns(boundaries: list[int]) -> list[Pattern]:
    if not boundaries:
        return []
    return [
        Pattern(
            kind="early",
            title="Violations at early boundaries",
            boundaries=boundaries,
            cause="The input turns from pure noise into structure within a few steps, so ranges "
            "move most at high noise.",
            impact="The first denoising steps decide the layout; a jump there moves the whole "
            "image.",
            advice="Give the trajectory more time groups, so that each boundary carries less of "
            "the change: `--num-time-groups 8`.",
        )
    ]


def _assessment(score: float | None, violations: list[Violation]) -> Assessment:
    command = (
        "thermoq baseline --model models/dit-xl-example --output out/dit-xl-int2-g8 "
        "--bit-width 2 --num-time-groups 8 --report out/report.json --html-report out/report.html"
    )
    if score is None:
        return Assessment(
            band=None,
            title="No smoothness score",
            verdict="No layer has time parameters, so nothing can jump at a boundary.",
            characteristics=[],
            causes=[],
            actions=[],
            next_command=command,
            phase_targets=[],
        )
    bands = (("poor", 0.65), ("typical", 0.7), ("good", 0.78), ("excellent", 2.0))
    band = next(name for name, limit in bands if score < limit)
    return Assessment(
        band=band,
        title=f"Smoothness: {band}",
        verdict=f"The parameters keep {score:.0%} of the smoothness that they could have; "
        f"{len(violations)} of the boundaries exceed the threshold.",
        characteristics=[
            Characteristic(
                name="Smoothness score",
                expected="0.65 to 0.78",
                actual=f"{score:.4f}",
                met=0.65 <= score <= 0.78,
                better="above" if score > 0.78 else None,
            ),
            Characteristic(
                name="Violations",
                expected="0 to 3",
                actual=str(len(violations)),
                met=len(violations) <= 3,
            ),
            Characteristic(
                name="Cosine similarity",
                expected="≥ 0.70",
                actual="0.9432",
                met=True,
                of_weights=True,
            ),
        ],
        causes=["No calibration: the ranges come from the noise schedule, not from data."],
        actions=["Increase the number of time groups.", "Try INT4: `--bit-width 4`."],
        next_command=command,
        phase_targets=[
            Characteristic(
                name="Phase 2 smoothness",
                expected="0.82 or more",
                actual=f"{score:.4f}",
                met=score >= 0.82,
            ),
            Characteristic(
                name="Phase 3 smoothness",
                expected="0.90 or more",
                actual=f"{score:.4f}",
                met=score >= 0.9,
            ),
        ],
    )


def _copied(components: Sequence[str], name_prefix: str) -> list[CopiedRow]:
    return [
        CopiedRow(
            name=f"{name_prefix}{name}",
            component=component,
            shape=shape,
            source_dtype="BF16",
            stored_bytes=2 * math.prod(shape),
            reason=reason,
            same_as=None,
        )
        for component in components
        for name, shape, reason in (
            ("pos_embed.proj.bias", [1152], "1-D tensor"),
            ("transformer_blocks.0.attn1.to_q.bias", [1152], "1-D tensor"),
            ("proj_out.bias", [32], "1-D tensor"),
        )
    ]


def _classes(layers: list[LayerRow], copied: list[CopiedRow]) -> list[ClassRow]:
    rows = []
    for name in ("body", "modulation", "sensitive", "table"):
        own = [layer for layer in layers if layer.layer_class == name]
        if own:
            weights = sum(layer.num_weights for layer in own)
            stored = sum(layer.stored_bytes for layer in own)
            rows.append(
                ClassRow(
                    layer_class=name,
                    num_tensors=len(own),
                    num_weights=weights,
                    source_bytes=2 * weights,
                    stored_bytes=stored,
                    bits_per_weight=8 * stored / weights,
                    relative_squared_error=sum(layer.squared_error for layer in own)
                    / sum(layer.source_energy for layer in own),
                )
            )
    stored = sum(row.stored_bytes for row in copied)
    rows.append(
        ClassRow(
            layer_class="copied",
            num_tensors=len(copied),
            num_weights=stored // 2,
            source_bytes=stored,
            stored_bytes=stored,
            bits_per_weight=16.0,
            relative_squared_error=None,
        )
    )
    return rows


def _sizes(layers: list[LayerRow], classes: list[ClassRow]) -> Sizes:
    header = 120 * len(layers) + 400
    quantized = sum(row.stored_bytes for row in classes if row.layer_class != "copied")
    copied = sum(row.stored_bytes for row in classes if row.layer_class == "copied")
    model = quantized + copied + header
    weights = sum(row.num_weights for row in classes)
    quantized_weights = sum(layer.num_weights for layer in layers)
    return Sizes(
        source_bytes=sum(row.source_bytes for row in classes) + header // 2,
        model_bytes=model,
        quantized_bytes=quantized,
        copied_bytes=copied,
        header_bytes=header,
        directory_bytes=model + 812_345,
        num_weights=weights,
        num_quantized_weights=quantized_weights,
        bits_per_weight_quantized=8 * quantized / max(1, quantized_weights),
        bits_per_weight_component=8 * model / weights,
        bits_per_weight_directory=8 * (model + 812_345) / weights,
    )


def _provenance(model_name: str) -> Provenance:
    return Provenance(
        cpu="Example CPU @ 3.0 GHz",
        simd_level="avx2",
        openmp=True,
        threads=8,
        blas="none",
        python_version="3.11.7",
        platform="Linux-6.1-x86_64",
        seed=0,
        command=f"thermoq baseline --model models/{model_name} --output out/{model_name}-int2 "
        "--bit-width 2 --report out/report.json --html-report out/report.html",
        started_at="2025-11-23T15:04:05+00:00",
        input_path=f"models/{model_name}",
        output_path=f"out/{model_name}-int2",
        input_fingerprint="sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        calibration_fingerprint=None,
        times_s={
            "total_s": 4.81,
            "plan_s": 0.0271,
            "quantize_s": 3.2,
            "validation_s": 0.012,
            "write_s": 0.6,
        },
    )
