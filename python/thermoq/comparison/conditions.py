"""The settings of evaluations: those that must agree, and the flags that repeat them.

The seed and the number of samples may differ: figures are then of other samples of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thermoq.evaluation.judge import MODEL_FINGERPRINT
from thermoq.report.evaluation_model import Evaluation

_DATA = "held-out data"
_UNKNOWN = "different inputs, of which the evaluations tell no more"


def are_pairs(one: Evaluation, other: Evaluation) -> bool:
    """Tell whether both evaluations were given the same inputs."""
    return one.inputs_key == other.inputs_key


def conditions_apart(one: Evaluation, other: Evaluation) -> str | None:
    """Name the first setting that keeps figures from being compared; None where there is none."""
    if are_pairs(one, other):
        return None
    first, second = dict(_conditions(one)), dict(_conditions(other))
    if one.inputs and other.inputs and one.inputs.data == other.inputs.data:
        del first[_DATA]  # whatever it is called
    for name, value in first.items():
        if second.get(name, value) != value:
            return f"different {name}: {value} and {second[name]}"
    is_told = one.inputs is not None and other.inputs is not None
    if is_told or one.model_fingerprint != other.model_fingerprint or _drawn(one) != _drawn(other):
        return None
    return _UNKNOWN


def differing_conditions(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what each evaluation has where they have not all the same, e.g. `guidance 4`."""
    found = [{**dict(_drawings(one)), **dict(_conditions(one))} for one in evaluations]
    names = list(dict.fromkeys(name for one in found for name in one))
    differing = [name for name in names if len({one.get(name) for one in found}) > 1]
    return [", ".join(f"{name} {one[name]}" for name in differing if name in one) for one in found]


def evaluate_flags(evaluation: Evaluation) -> Iterator[str]:
    """Yield the words that make `thermoq evaluate` draw the same inputs again.

    Data goes by its name and prompts by a placeholder: no report knows where they lay.
    """
    yield from ("--samples", str(evaluation.num_samples), "--steps", str(evaluation.steps))
    if evaluation.seed:
        yield from ("--seed", str(evaluation.seed))
    if evaluation.guidance is not None:
        yield from ("--guidance", f"{evaluation.guidance:g}")
    if evaluation.num_prompts:
        yield from ("--prompts", "PROMPTS")
    if evaluation.data is not None:
        yield from ("--data", evaluation.data)
    for flag, value in _sizes(evaluation):
        if value is not None:
            yield from (flag, str(value))
    judged = _judged(evaluation)
    if judged or evaluation.model_fingerprint == MODEL_FINGERPRINT:
        yield from ("--judged", str(judged))


def _sizes(evaluation: Evaluation) -> Iterator[tuple[str, int | None]]:
    if evaluation.inputs is not None:
        yield "--length", evaluation.inputs.length
        yield "--size", evaluation.inputs.size
    elif evaluation.language is not None:
        yield "--length", evaluation.language.length


def _conditions(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Yield settings that must agree, by name; those that an evaluation did not note are left out.

    Of some only fingerprints are known, which are too long to read: their ends tell them apart.
    """
    language, inputs = evaluation.language, evaluation.inputs
    yield "kinds of models", "no language model" if language is None else "a language model"
    yield "sampling steps", str(evaluation.steps)
    yield "samplers", evaluation.sampler
    yield "guidance", "none" if evaluation.guidance is None else f"{evaluation.guidance:g}"
    yield "precisions", evaluation.precision
    yield _DATA, evaluation.data or "none"
    yield "numbers of prompts", str(evaluation.num_prompts)
    if language is not None:
        ratios = (row.mask_ratio or 0.0 for row in language.mask_ratios)
        yield "texts", "given" if language.text == "given" else "the model's own"
        yield "lengths of text", f"{language.length} tokens"
        yield "mask ratios", ", ".join(f"{ratio:.0%}" for ratio in ratios)
    if inputs is not None:
        yield "image sizes", "the model's own" if inputs.size is None else str(inputs.size)
        yield "prompts", _end(inputs.prompts)
        yield "contents of the held-out data", _end(inputs.data)
        yield "configurations of the scheduler", _end(inputs.scheduler)


def _drawings(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    yield "samples", str(evaluation.num_samples)
    yield "seed", str(evaluation.seed)
    yield "judged", str(_judged(evaluation))


def _drawn(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    return tuple(_drawings(evaluation))


def _judged(evaluation: Evaluation) -> int:
    return 0 if evaluation.sample_quality is None else evaluation.sample_quality.num_samples


def _end(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else f"...{fingerprint[-8:]}"
