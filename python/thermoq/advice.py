"""Why a run came out as it did, and what to do: which settings the next one should have.

Two dials are kept apart, because under the noise-schedule prior the smoothness score depends on the
time groups alone, and the weights' cosine similarity and error on the bits alone. Before either is
turned, the prior's place is to be taken by a calibration.
"""

from __future__ import annotations

from dataclasses import replace

from thermoq.encodings import DEFAULT_EFFORT
from thermoq.expectations import Band, Figures
from thermoq.next_commands import OF_OTHER_ENCODINGS, Run, Step, given
from thermoq.phase_advice import phase_actions, phase_step
from thermoq.trellis import WINDOW_BITS

_LARGE_ERROR = 0.05  # of the weights, relative and squared; ours, the specification names none
_NOT_WITH_Q8 = (*OF_OTHER_ENCODINGS, "--config", "--encoding", "--effort", "--rotation")
_MOST_EFFORT = max(WINDOW_BITS)
_MANY_GROUPS = 8  # the specification's advice for poor baselines: 8 to 15 time groups

MEASURE = (
    "Measure what the quantized model does: `thermoq evaluate` runs it beside the full-precision "
    "one. Smoothness is not accuracy."
)
COMPARE = (
    "Hold it against Phase 1 of the same codes: evaluate that run with the same settings, too, and "
    "give both reports to `thermoq compare`, Phase 1's first. It tells the differences with their "
    "intervals. `thermoq.load` runs this model."
)
"""What takes the place of `MEASURE` once that is done."""


def causes_of(figures: Figures, run: Run, band: Band) -> list[str]:
    """Return possible causes of what falls short."""
    causes = []
    if band == "poor":
        if run.num_time_groups < _MANY_GROUPS:
            causes.append(
                f"{run.num_time_groups} time groups are few: each spans a large part of the "
                "trajectory, so neighbours differ much."
            )
        causes.append(
            "Layers whose gain lies in few directions (a large spectral concentration in the table "
            "of layers) change most between noise and clean data; a model made of such layers "
            "suits time-aware quantization less."
            if figures.is_prior
            else "The ranges of many layers' inputs change much from time group to time group; the "
            "table of ranges shows which."
        )
    if _cosine_is_low(figures, band) and run.method != "hessian":
        causes.append(
            f"{run.bit_width}-bit codes chosen by {run.method} keep little of the weights' "
            "direction. This lowers cosine similarity; the smoothness score does not depend on it."
        )
    if _error_is_large(figures) and run.method != "hessian":  # it trades weights for outputs
        causes.append(
            f"The weights' relative squared error is above {_LARGE_ERROR:g}, thermoq's own limit "
            f"for advising other codes or more than {run.bit_width} bits; the smoothness score "
            "does not show it."
        )
    return causes


def _cosine_is_low(figures: Figures, band: Band) -> bool:
    value = figures.cosine_similarity
    return value is not None and (value <= 0.75 if band == "excellent" else value < 0.70)


def _error_is_large(figures: Figures) -> bool:
    error = figures.relative_squared_error
    return error is not None and error > _LARGE_ERROR


def next_step(figures: Figures, run: Run, band: Band) -> Step:
    """Turn the dial of each figure that falls short, or none.

    The weights come before the phases, which are held against each other on the same codes.
    """
    weights = _weights_step(figures, run, band)
    if figures.is_prior or run.num_time_groups == 1:
        groups = None
        if run.num_time_groups == 1:
            groups = min(4, run.most_time_groups)
        elif band != "excellent" and run.phase == "baseline":
            groups = min(2 * run.num_time_groups, run.most_time_groups)
        return replace(weights, num_time_groups=groups if groups != run.num_time_groups else None)
    return phase_step(figures, run, band) if weights == Step() else weights


def _weights_step(figures: Figures, run: Run, band: Band) -> Step:
    """Return other codes of as many bits, before the checkpoint grows; then more bits."""
    if not (_cosine_is_low(figures, band) or _error_is_large(figures)):
        return Step()
    rounds = run.method == "minmax" and run.bit_width < 8 and run.lsq_fits
    if _could_be_trellis(run) and (rounds or run.method != "minmax"):
        return Step(method="lsq" if rounds else None, encoding="trellis", effort=DEFAULT_EFFORT)
    if run.method == "hessian":  # it trades the weights' error for the outputs'
        return Step()
    if rounds:
        return Step(method="lsq")
    if run.effort is not None and run.effort < _MOST_EFFORT:
        return Step(effort=_MOST_EFFORT)
    if run.has_budget:  # its size is what was asked for
        return Step()
    if run.encoding == "trellis" and run.bit_width in (2, 3):
        return Step(run.bit_width + 1)
    if run.bit_width == 2 or _could_be_q8(run):
        return Step(2 * run.bit_width)
    return Step()


def _could_be_trellis(run: Run) -> bool:
    """Tell whether the run has other codes where trellis is better: at 2 bits, or by a budget."""
    of_few_bits = run.bit_width == 2 or (run.has_budget and run.bit_width < 8)
    return of_few_bits and run.encoding != "trellis" and run.trellis_fits


def _could_be_q8(run: Run) -> bool:
    """Tell whether 8 bits would be accepted: q8 has its own group size and encoding."""
    return run.bit_width == 4 and not given(run, *_NOT_WITH_Q8)


def actions_for(figures: Figures, run: Run, band: Band, step: Step) -> list[str]:
    """Return what to do, in order, with the reasons for `step`."""
    actions = []
    if figures.is_prior:
        actions.append(
            "Calibrate first, and read this score as an estimate until then: `thermoq calibrate` "
            "runs the model along its own sampling trajectory, without any data, and measures each "
            "layer's inputs. Then this run with `--calibration` has measured parameters."
        )
    actions += _codes_actions(run, step)
    if step.bit_width is not None:
        actions.append(
            f"Try INT{step.bit_width} instead of INT{run.bit_width}: this changes the weights. "
            "Their cosine similarity and error improve and the checkpoint grows; the smoothness "
            "score stays."
        )
    if step.num_time_groups is not None and not step.concerns_phases:
        actions.append(_groups_action(figures, run, step.num_time_groups))
    actions += phase_actions(figures, run, band, step)
    if step == Step():
        actions.append(
            "Export the dense weights and try them in the model's own pipeline."
            if run.phase == "baseline"
            else MEASURE
        )
    return actions


def _codes_actions(run: Run, step: Step) -> list[str]:
    """Return the advice on other codes of as many bits."""
    lsq = (
        f"Choose the INT{run.bit_width} codes by least squares, `thermoq quantize`, instead of by "
        f"rounding to nearest ({run.method})"
    )
    if step.encoding is not None:
        flags = f"`--encoding {step.encoding} --effort {step.effort}`"
        size = "as many bytes" if run.has_budget else "about 2.1 bits in large layers"
        start = f"{lsq}, and in trellis codes" if step.method else "Choose trellis codes"
        return [
            f"{start}, {flags}: of {size}, they lose least of the weights. Coding takes longer; "
            "`--dry-run` measures each effort's minutes per billion weights on this machine. The "
            "smoothness score stays."
        ]
    if step.method is not None:
        return [
            f"{lsq}. Its default encoding is {'trellis' if run.bit_width == 2 else 'coded'}; "
            f"`--encoding {run.encoding}` keeps this one. Its report gives the error and the size "
            "to hold against these; the smoothness score stays."
        ]
    if step.effort is not None:
        return [
            f"Spend more effort on the same bits, `--effort {step.effort}` instead of "
            f"{run.effort}: the weights' error falls. Coding takes longer; `--dry-run` measures "
            "each effort's minutes per billion weights on this machine."
        ]
    return []


def _groups_action(figures: Figures, run: Run, groups: int) -> str:
    only = (
        " Under the prior this changes the score, not the weights."
        if figures.is_prior
        else " It changes the activation parameters, not the weights."
    )
    if run.num_time_groups == 1:
        return f"Use {groups} time groups to see how the parameters move.{only}"
    if groups < run.num_time_groups:
        return (
            f"Lower the time groups from {run.num_time_groups} to {groups}: the windows already "
            f"are half the smaller time group, and wider groups have room for wider ones.{only}"
        )
    return (
        f"Raise the time groups from {run.num_time_groups} to {groups}: smaller steps between "
        f"neighbours as a rule raise the smoothness score.{only}"
    )
