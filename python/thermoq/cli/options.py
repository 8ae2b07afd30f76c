"""Options that several commands share, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"expected an integer, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a number, got {text!r}") from None


# The parser's own message names neither what was expected nor what it got.
_INTEGER: dict[str, Any] = {"parser": _integer, "metavar": "<int>"}
_NUMBER: dict[str, Any] = {"parser": _number, "metavar": "<float>"}

Model = Annotated[
    Path, typer.Option(help="The checkpoint directory: diffusers or transformers layout.")
]
Output = Annotated[Path, typer.Option(help="The directory to write.")]
OutputUnlessDry = Annotated[
    Path | None, typer.Option(help="The directory to write; a dry run needs none.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan, exact sizes and predicted errors; no output."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output, on success only.")
]
Config = Annotated[
    Path | None, typer.Option(help="A YAML file with the same settings; flags win over it.")
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write the JSON report here, and the log beside it as .log."),
]
HtmlReport = Annotated[Path | None, typer.Option(help="Write the HTML report here.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Threads = Annotated[int | None, typer.Option(help="Threads; 0: all.", show_default="0", **_INTEGER)]
MaxShardSize = Annotated[
    str | None, typer.Option(help="Largest safetensors file.", show_default="5GB")
]
BitWidth = Annotated[
    int | None,
    typer.Option(
        help="Bits of the body's weights: 2, 4, 8, or 3 in trellis.", show_default="2", **_INTEGER
    ),
]
DemoBitWidth = Annotated[
    int | None,
    typer.Option(help="Bits of the body's weights: 2, 4 or 8.", show_default="2", **_INTEGER),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        help="Weights that share a scale, a multiple of 8.",
        show_default="affine 64; coded 16 at 2 bits, 32 at 4; trellis a row",
        **_INTEGER,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="affine, coded or trellis (8 bits are always q8).",
        show_default="trellis at 2 bits, else coded; affine with minmax",
    ),
]
SuperBlock = Annotated[
    int | None,
    typer.Option(
        help="coded: weights that share an f16 pair, a multiple of the group size.",
        show_default="256, or what divides the row",
        **_INTEGER,
    ),
]
ScaleBits = Annotated[
    int | None,
    typer.Option(
        help="coded: bits of a group's scale, 1 to 8.",
        show_default="4 at 2 bits, 6 at 4",
        **_INTEGER,
    ),
]
MinimumBits = Annotated[
    int | None,
    typer.Option(
        help="coded: bits of a group's minimum, 1 to 8.",
        show_default="4 at 2 bits, 6 at 4",
        **_INTEGER,
    ),
]
Effort = Annotated[
    int | None,
    typer.Option(
        help="trellis: 1 to 5, from fast to good; a dry run tells the minutes.",
        show_default="5",
        **_INTEGER,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="minmax (round to nearest), lsq (least squares) or hessian (by calibrated inputs).",
        show_default="hessian with a calibration, else lsq",
    ),
]
Rotation = Annotated[
    str | None,
    typer.Option(
        help="none, or hadamard: spread outliers over the inputs of a layer.",
        show_default="hadamard with trellis, or hessian and affine",
    ),
]
TargetBits = Annotated[
    float | None,
    typer.Option(
        help="Choose bits and encodings for this many bits per quantized weight.", **_NUMBER
    ),
]
MaxSize = Annotated[
    str | None,
    typer.Option(help="Choose bits and encodings for safetensors files of this size, like 3GB."),
]
NumTimeGroups = Annotated[
    int | None, typer.Option(help="Time groups along the trajectory.", show_default="4", **_INTEGER)
]
ActivationBits = Annotated[
    int | None, typer.Option(help="Bits of the activations: 4 or 8.", show_default="8", **_INTEGER)
]
SensitiveActivationBits = Annotated[
    str | None,
    typer.Option(
        help="Those of embedders, first and last projection: 4, 8 or none (left as they are).",
        show_default="8; none with --activation-bits 4",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="The file that `thermoq calibrate` wrote for this model."),
]
Grouping = Annotated[
    str | None,
    typer.Option(
        help="With a calibration: uniform time groups, or adaptive to how ranges change.",
        show_default="uniform",
    ),
]
SamplingSteps = Annotated[
    int | None,
    typer.Option(
        help="Sampler steps: what one crosses is a jump.",
        show_default="the calibration's, or 50",
        **_INTEGER,
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the power iteration.", show_default="0", **_INTEGER)
]
Component = Annotated[
    list[str] | None,
    typer.Option(help="Quantize this component folder too; may be repeated."),
]
Validation = Annotated[
    bool | None,
    typer.Option(
        "--validation/--no-validation",
        help="Measure and report the thermodynamic metrics.",
        show_default="validation",
    ),
]
SmoothnessThreshold = Annotated[
    float | None,
    typer.Option(help="Jumps above this are violations.", show_default="0.3", **_NUMBER),
]
Phase = Annotated[
    str | None,
    typer.Option(
        help="baseline (Phase 1), smooth (Phase 2) or optimize (Phases 2 and 3).",
        show_default="baseline",
    ),
]
Smoothing = Annotated[
    bool | None,
    typer.Option(
        "--smoothing/--no-smoothing",
        help="Phase 2: let parameters pass smoothly between time groups.",
        show_default="by --phase",
    ),
]
Optimization = Annotated[
    bool | None,
    typer.Option(
        "--optimization/--no-optimization",
        help="Phase 3: fit ranges, row gains and biases to the calibrated inputs.",
        show_default="by --phase",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(help="Phase 2: linear, cubic or sigmoid.", show_default="linear"),
]
Window = Annotated[
    float | None,
    typer.Option(
        help="Phase 2: timesteps on each side of a boundary.",
        show_default="half of the smaller time group",
        **_NUMBER,
    ),
]
Coupling = Annotated[
    float | None,
    typer.Option(help="Phase 3: pull between time groups; 0: none.", show_default="1", **_NUMBER),
]
GainEstimator = Annotated[
    str | None,
    typer.Option(
        help="Phase 3: variance, unbiased or least_squares.",
        show_default="variance for language models, else unbiased",
    ),
]
ClipSearch = Annotated[
    bool | None,
    typer.Option(
        "--clip-search/--no-clip-search",
        help="Phase 3: search for activation ranges that clip; without it, those of Phase 1.",
        show_default="clip-search",
    ),
]
RowChoice = Annotated[
    str | None,
    typer.Option(
        help="Phase 3: row gains and biases of all layers: none, pooled or per_time_group.",
        show_default="by held-out rows, layer by layer",
    ),
]
OutputCorrection = Annotated[
    bool | None,
    typer.Option(
        "--output-correction/--no-output-correction",
        help="Phase 3: correct the model's prediction by time bin; needs torch.",
        show_default="where torch is there",
    ),
]
Sequential = Annotated[
    bool | None,
    typer.Option(
        "--sequential/--no-sequential",
        help="Phase 3: fit each layer to what quantized layers give it; needs torch.",
        show_default="no-sequential",
    ),
]

# Those of `calibrate`.

Samples = Annotated[
    int | None, typer.Option(help="Samples to draw.", show_default="64", **_INTEGER)
]
Steps = Annotated[
    int | None, typer.Option(help="Steps of the sampler.", show_default="50", **_INTEGER)
]
Bins = Annotated[
    int | None,
    typer.Option(help="Fine time bins along the trajectory.", show_default="20", **_INTEGER),
]
Rows = Annotated[
    int | None,
    typer.Option(help="Input rows to keep in each bin.", show_default="100", **_INTEGER),
]
CalibrationSeed = Annotated[
    int | None, typer.Option(help="Seed of all that is drawn.", show_default="0", **_INTEGER)
]
Guidance = Annotated[
    float | None,
    typer.Option(help="Guidance scale.", show_default="the pipeline's own", **_NUMBER),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="A text file with a prompt a line.", show_default="empty prompts"),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Your own samples, mixed in: a folder of images, an .npy, a text file."),
]
Mix = Annotated[
    float | None,
    typer.Option(help="Share of the samples that is --data.", show_default="0.5", **_NUMBER),
]
Length = Annotated[
    int | None,
    typer.Option(help="Language models: tokens of a sample.", show_default="128", **_INTEGER),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Pipelines: pixels of a sample's sides.", show_default="the model's own", **_INTEGER
    ),
]
HeldOutData = Annotated[
    Path | None,
    typer.Option(help="Held-out data, none of the calibration's: text, a folder of images, .npy."),
]
Timing = Annotated[
    bool,
    typer.Option(
        "--timing/--no-timing",
        help="Time the quantized model's forward pass beside one with static parameters.",
    ),
]
Judged = Annotated[
    int | None,
    typer.Option(
        help="Samples to draw for accuracy and Frechet distance; 0: none.",
        show_default="500 of the bundled model",
        **_INTEGER,
    ),
]
