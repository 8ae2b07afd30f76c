"""An evaluation as tables of text: the same on the page, in the log and in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thermoq.report.evaluation_model import (
    DenoiserEvaluation,
    Evaluation,
    Figure,
    InferenceTime,
    LanguageEvaluation,
    MaskedRow,
    SampleQuality,
    TrajectoryRow,
)
from thermoq.report.wording import counted, duration, fixed, significant, timestep, whole

_NOTHING = "-"


@dataclass(frozen=True)
class EvaluationTable:
    """A table: what it is of, its columns' heads, and its rows, the first cell naming each."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def evaluation_text(found: Evaluation) -> str:
    """How the figures came to be, e.g. `64 held-out samples in 50 steps of DDIMScheduler ...`."""
    if found.language is not None and found.language.text == "given":
        text = f"{counted(found.num_samples, 'window')} of {found.language.length} tokens of "
        text += f"{found.data}, masked at random"
    else:
        own = "images of " + found.data if found.data is not None else "held-out seeds"
        text = f"{counted(found.num_samples, 'sample')} from {own}, in "
        text += f"{counted(found.steps, 'step')} ({found.sampler})"
    if found.guidance is not None:
        text += f", guidance {found.guidance:g}"
    intervals = f"intervals of {found.confidence:.0%} by bootstrap over samples"
    return f"{text}, seed {found.seed}; {intervals}; took {duration(found.elapsed_s)}"


def evaluation_tables(found: Evaluation) -> list[EvaluationTable]:
    """Return a table for each part of an evaluation."""
    tables: list[EvaluationTable] = []
    if found.denoiser is not None:
        tables += _of_denoiser(found.denoiser)
    if found.language is not None:
        tables += _of_language(found.language)
    if found.sample_quality is not None:
        tables.append(_of_samples(found.sample_quality))
    if found.inference is not None:
        tables.append(_of_inference(found.inference))
    return tables


def evaluation_lines(found: Evaluation | None) -> Iterator[str]:
    """Yield all of it as lines for the log."""
    if found is None:
        return
    yield evaluation_text(found)
    yield from found.notes
    for table in evaluation_tables(found):
        for name, *cells in table.rows:
            pairs = zip(table.columns[1:], cells, strict=True)
            yield f"{name}: " + ", ".join(f"{head} {cell}" for head, cell in pairs)


def figure_text(value: Figure | None) -> str:
    """A figure with its interval, e.g. `0.0215 (0.0206 to 0.0225)`."""
    return _with_interval(value, significant)


def share_text(value: Figure | None) -> str:
    """A figure near 1 with its interval, e.g. `0.9810 (0.9798 to 0.9822)`."""
    return _with_interval(value, fixed)


def _with_interval(value: Figure | None, text: object) -> str:
    if value is None or not callable(text):
        return _NOTHING
    return f"{text(value.value)} ({text(value.low)} to {text(value.high)})"


def _of_denoiser(found: DenoiserEvaluation) -> Iterator[EvaluationTable]:
    has_kl = found.time_group_sums.transition_kl is not None
    columns: tuple[str, ...] = ("from", "passes", "output error", "cosine")
    columns += ("transition KL",) if has_kl else ()
    rows = [(f"time group {i}", row) for i, row in enumerate(found.time_groups)]
    yield EvaluationTable(
        "Prediction of the quantized model beside full precision's, by time group",
        ("", *columns),
        (*_rows(rows, has_kl=has_kl), *_rows([("overall", found.overall)], has_kl=has_kl)),
    )
    quarters = [(f"quarter {i}", row) for i, row in enumerate(found.quarters, 1)]
    title = "The same by quarter of the timesteps, the noisiest first"
    yield EvaluationTable(title, ("", *columns), _rows(quarters, has_kl=has_kl))


def _rows(
    named: Sequence[tuple[str, TrajectoryRow]], *, has_kl: bool
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            name,
            f"t = {timestep(row.start_timestep)}",
            whole(row.passes),
            figure_text(row.output_error),
            share_text(row.cosine_similarity),
            *((figure_text(row.transition_kl),) if has_kl else ()),
        )
        for name, row in named
    )


def _of_language(found: LanguageEvaluation) -> Iterator[EvaluationTable]:
    columns = (
        *("", "tokens", "KL", "cross-entropy", "full precision's"),
        *("top-1 accuracy", "full precision's accuracy"),
    )
    ratios = [(f"mask ratio {row.mask_ratio:g}", row) for row in found.mask_ratios]
    yield EvaluationTable(
        "Predictions at masked positions, in nats per token, by mask ratio",
        columns,
        tuple(_masked_row(*one) for one in [*ratios, ("overall", found.overall)]),
    )
    groups = [(f"time group {row.time_group}", row) for row in found.time_groups]
    title = "The same by time group, of those that a mask ratio is in"
    yield EvaluationTable(title, columns, tuple(_masked_row(*one) for one in groups))


def _masked_row(name: str, row: MaskedRow) -> tuple[str, ...]:
    return (
        name,
        whole(row.tokens),
        figure_text(row.divergence),
        figure_text(row.cross_entropy),
        figure_text(row.full_cross_entropy),
        share_text(row.accuracy),
        share_text(row.full_accuracy),
    )


def _of_samples(found: SampleQuality) -> EvaluationTable:
    drawn = f"{counted(found.num_samples, 'sample')} in {counted(found.steps, 'step')}"
    return EvaluationTable(
        f"{drawn} of each model from the same noise, without guidance, judged by {found.judge}",
        ("", "accuracy", "Frechet distance"),
        (
            ("quantized", share_text(found.accuracy), figure_text(found.frechet_distance)),
            (
                "full precision",
                share_text(found.full_accuracy),
                figure_text(found.full_frechet_distance),
            ),
        ),
    )


def _of_inference(found: InferenceTime) -> EvaluationTable:
    machine = f"{found.cpu}, {counted(found.threads, 'thread')}"
    turns = f"{len(found.ratios)} at {counted(found.num_timesteps, 'timestep')}"
    return EvaluationTable(
        "A forward pass beside one with static parameters, in turns; a measurement of the machine "
        f"({machine}), its interval over turns",
        ("", "batch", "turns", "static", "over static"),
        (
            (
                "inference",
                whole(found.batch_size),
                turns,
                f"{significant(1e3 * found.static_s)} ms",
                _with_interval(found.over_static, _ratio),
            ),
        ),
    )


def _ratio(value: float) -> str:
    return f"{value:.3f}"
