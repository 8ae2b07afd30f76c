"""What `thermoq evaluate` measured, as typed values: the `evaluation` of a report.

Beside each figure lies what it came from, one row a sample: two evaluations with the same
`inputs_key` were given the same inputs, so that differences of their figures can be formed sample
by sample (`thermoq.evaluation.intervals`).
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

EVALUATION_FORMAT_VERSION: Final = 1


class EvaluationPart(BaseModel):
    """What all parts share: they do not change, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Figure(EvaluationPart):
    """A figure and its interval of confidence, by bootstrap over samples."""

    value: float
    low: float
    high: float


class TrajectoryRow(EvaluationPart):
    """A part of the trajectory. Figures are null where no forward pass fell into it."""

    start_timestep: float = Field(description="the noisiest; may be fractional")
    end_timestep: float = Field(description="the cleanest whole timestep")
    passes: int = Field(description="forward passes of a sample that fell here, all counted")
    output_error: Figure | None = Field(description="||y_q - y||^2 / ||y||^2, of sums over passes")
    cosine_similarity: Figure | None = Field(description="of y_q and y, mean over passes")
    transition_kl: Figure | None = Field(
        description="w(t) ||eps_q - eps||^2 of one of the chain's T steps, in nats, mean over "
        "passes with t > 0; null where the model is no Gaussian chain of T steps"
    )


class TrajectorySums(EvaluationPart):
    """Sums over the passes of each sample, [samples][parts of the trajectory]."""

    passes: list[list[int]]
    squared_error: list[list[float]] = Field(description="||y_q - y||^2")
    energy: list[list[float]] = Field(description="||y||^2")
    cosine: list[list[float]]
    transition_kl: list[list[float]] | None
    transitions: list[list[int]] | None = Field(description="passes with t > 0")


class DenoiserEvaluation(EvaluationPart):
    """A denoiser's prediction y_q on the inputs of the full-precision model, which predicts y.

    With guidance these are the predictions that it is made of, each by itself. A learned variance
    does not count.
    """

    overall: TrajectoryRow
    time_groups: list[TrajectoryRow] = Field(description="those of the quantized model")
    quarters: list[TrajectoryRow] = Field(description="of the timesteps, the noisiest first")
    time_group_sums: TrajectorySums
    quarter_sums: TrajectorySums


class MaskedRow(EvaluationPart):
    """Predictions at masked positions, mean over tokens. Entropies are in nats."""

    mask_ratio: float | None = Field(description="null: over several")
    timestep: float | None = Field(description="of the mask ratio; null: several")
    time_group: int | None = Field(description="that the timestep is in; null: several")
    tokens: int
    divergence: Figure = Field(description="KL of full precision's distribution to this model's")
    cross_entropy: Figure = Field(description="of the true token")
    full_cross_entropy: Figure = Field(description="the same of the full-precision model")
    accuracy: Figure = Field(description="share of tokens that are the likeliest one: top-1")
    full_accuracy: Figure


class MaskedSums(EvaluationPart):
    """Sums over the masked tokens of each sample, [samples][mask ratios]."""

    tokens: list[list[int]]
    divergence: list[list[float]]
    cross_entropy: list[list[float]]
    full_cross_entropy: list[list[float]]
    correct: list[list[int]]
    full_correct: list[list[int]]


class LanguageEvaluation(EvaluationPart):
    """A masked-diffusion language model on held-out text, or on sequences of its own."""

    text: Literal["own", "given"] = Field(
        description="`own`: sequences that the full-precision model wrote"
    )
    length: int = Field(description="tokens of a sample")
    overall: MaskedRow
    mask_ratios: list[MaskedRow]
    time_groups: list[MaskedRow] = Field(description="those that a mask ratio falls into")
    sums: MaskedSums


class SampleQuality(EvaluationPart):
    """Samples of a model that a judge knows, drawn by both models from the same noise."""

    judge: str = Field(description="what judges: a classifier and statistics of real data")
    num_samples: int
    steps: int
    accuracy: Figure = Field(description="share that the classifier gives the label they have")
    frechet_distance: Figure = Field(
        description="to real data in 32 of its principal components; grows as samples get fewer"
    )
    full_accuracy: Figure
    full_frechet_distance: Figure
    correct: str = Field(description="a digit a sample: 1 if the classifier agrees with its label")
    full_correct: str
    frechet_replicates: list[float] = Field(
        description="of the bootstrap; the same samples in the same place, whatever the model"
    )
    full_frechet_replicates: list[float]


class InferenceTime(EvaluationPart):
    """A forward pass beside one of the same quantized weights with static parameters.

    Static: the ranges of one time group, no gains, no biases, no output correction, no schedule.
    Measured in turns on one machine: no other run repeats it digit by digit.
    """

    over_static: Figure = Field(
        description="time of a pass over that with static parameters: median of the turns' ratios, "
        "its interval by bootstrap over turns"
    )
    ratios: list[float] = Field(description="one a turn")
    static_s: float = Field(description="median time of a pass with static parameters")
    batch_size: int = Field(description="samples or sequences of a pass")
    num_timesteps: int = Field(description="at which turns were taken, all of them as often")
    cpu: str
    threads: int


class EvaluationInputs(EvaluationPart):
    """What was asked for that the other keys of an evaluation do not tell."""

    length: int | None = Field(description="tokens of a sample; null: the default")
    size: int | None = Field(description="pixels of an image's side; null: the model's own")
    prompts: str | None = Field(description="fingerprint of the prompts; null: none")
    data: str | None = Field(description="fingerprint of the held-out data; null: none")
    scheduler: str | None = Field(description="fingerprint of its configuration; null: none")


class Evaluation(EvaluationPart):
    """A quantized model beside the one it was made of, on inputs that no calibration saw."""

    format_version: Literal[1] = 1
    thermoq_version: str
    model_fingerprint: str = Field(description="of the full-precision weights")
    quantized_fingerprint: str = Field(description="of the quantized tensors' checksums")
    inputs_key: str = Field(
        description="of all that decides what the models were given and how it was drawn; equal: "
        "the samples are pairs"
    )
    inputs: EvaluationInputs | None = Field(
        default=None, description="null in evaluations that did not note them"
    )
    num_samples: int
    steps: int = Field(description="of the sampler")
    seed: int
    guidance: float | None
    sampler: str
    precision: str
    data: str | None = Field(description="name of the user's held-out data; null: none")
    num_prompts: int
    confidence: float = Field(description="of the intervals")
    num_replicates: int = Field(description="of the bootstrap over samples")
    denoiser: DenoiserEvaluation | None = None
    language: LanguageEvaluation | None = None
    sample_quality: SampleQuality | None = None
    inference: InferenceTime | None = Field(
        default=None, description="a measurement of a machine; null: not made"
    )
    notes: list[str]
    elapsed_s: float
