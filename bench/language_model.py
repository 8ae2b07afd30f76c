"""The masked language model of the tests: cross-entropy on masked tokens of held-out text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import ROOT, Result, quartiles, shown
from reports import Options, Report
from thermoq.calibration.language_models import LanguageModel, load_language_model
from torch import Tensor
from torch.nn import functional
from variants import AFFINE, COST, MODEL_ITSELF, Missing, Variant, calibrated, made

sys.path.insert(0, str(ROOT / "scripts"))

MODEL = ROOT / "tests" / "data" / "masked-lm"
LENGTH = 128
RATIOS = (0.15, 0.5, 0.85)
BATCH = 16
HELD_OUT_SEED = 1_000_003
TEXT = "half text"  # the name of the calibration with text mixed in


@dataclass(frozen=True)
class Quality:
    """Per masked token, in nats: sums for each round of masks and mask ratio, [masks, ratios].

    `loss` is the cross-entropy of the true token, `divergence` that of full precision's predictions
    less its least, their entropy (Kullback and Leibler's).
    """

    loss: Tensor
    divergence: Tensor


def report(options: Options) -> Report:
    """Measure every variant."""
    model, windows = load_language_model(MODEL), held_out_windows()
    full = quality(model, model, windows, options.rounds)
    columns = [f"{name} {ratio}" for name in ("loss", "gap", "KL") for ratio in RATIOS]
    rows = [["variant", *COST, *columns]]
    rows.append(["full precision", "", "", *_cells(full.loss), *[""] * 6])
    missing = []
    measured: dict[str, Quality] = {}
    alone = {"method": "hessian", "rotation": "none", **AFFINE}
    extra = [Variant("hessian, own trajectory alone", alone, MODEL_ITSELF)]
    for variant, dense in made(MODEL, calibrations(options), TEXT, options, extra):
        if isinstance(dense, Missing):
            missing.append(str(dense))
            continue
        one = quality(load_language_model(dense.directory), model, windows, options.rounds)
        measured[variant.name] = one
        cells = [*_cells(one.loss), *_cells(one.loss - full.loss), *_cells(one.divergence)]
        rows.append([variant.name, *dense.cost, *cells])
    what = (
        "masked language model at INT2: cross-entropy (nats) on masked tokens of "
        f"{windows.numel():,} held-out tokens at mask ratios {', '.join(map(str, RATIOS))}, its "
        f"gap to full precision, and KL from full precision; {options.rounds} rounds of masks; "
        "calibrated half on text that the model was fitted to"
    )
    return Report(what, rows, missing, comparisons(measured, full))


def _cells(values: Tensor) -> list[str]:
    return [f"{float(x):.4f}" for x in values.mean(0)]


def calibrations(options: Options) -> dict[str, Path]:
    """Calibrate the model along its own trajectory, and half and half with text."""
    from train_language_model import load_text

    text = options.workdir / "fitted-text.txt"
    text.write_text(load_text()[0], encoding="utf-8")
    own, mixed = (options.workdir / f"masked-lm-{name}.safetensors" for name in ("own", "text"))
    return {
        MODEL_ITSELF: calibrated(MODEL, own, options.threads),
        TEXT: calibrated(MODEL, mixed, options.threads, data=text),
    }


def held_out_windows() -> Tensor:
    """Return the text that neither training nor calibration sees, as tokens [n, LENGTH]."""
    from train_language_model import load_text

    tokens = torch.tensor(load_language_model(MODEL).encode(load_text()[1]))
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


@torch.no_grad()
def quality(model: LanguageModel, full: LanguageModel, windows: Tensor, rounds: int) -> Quality:
    """Mask `windows` at each ratio, anew in each round but the same for every model."""
    sums = torch.zeros(2, rounds, len(RATIOS), dtype=torch.float64)
    for number in range(rounds):
        for column, ratio in enumerate(RATIOS):
            generator = torch.Generator().manual_seed(HELD_OUT_SEED + number)
            masked = torch.rand(windows.shape, generator=generator) < ratio
            masked[:, 0] = False  # nothing predicts the first token
            for part, hidden in zip(windows.split(BATCH), masked.split(BATCH), strict=True):
                noised = part.masked_fill(hidden, model.mask_token_id)
                ours, theirs = (one.logits(noised)[hidden].log_softmax(-1) for one in (model, full))
                loss = functional.nll_loss(ours, part[hidden], reduction="sum")
                kl = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
                sums[:, number, column] += torch.stack([loss, kl]) / float(masked.sum())
    return Quality(*sums)


def comparison(
    name: str,
    beside: str,
    measured: Mapping[str, Quality],
    full: Quality,
    target: float | None,
) -> list[Result]:
    """The ratio of the gaps, summed over mask ratios: a gap alone can be near 0, or below."""
    what = f"{name}, beside {beside}"
    if name not in measured or beside not in measured:
        absent = " and ".join(x for x in (name, beside) if x not in measured)
        return [
            Result(f"{what}: gap", None, "x", target=target, at_least=False, detail=f"no {absent}")
        ]
    a, b = measured[name], measured[beside]
    gaps = a.loss - full.loss, b.loss - full.loss
    return [
        _ratio(f"{what}: gap in cross-entropy", *gaps, target),
        _ratio(f"{what}: KL from full precision", a.divergence, b.divergence, None),
    ]


def _ratio(what: str, ours: Tensor, theirs: Tensor, target: float | None) -> Result:
    by_round = (ours.sum(1) / theirs.sum(1)).tolist()
    lower, _, upper = quartiles(by_round)
    by_ratio = " ".join(shown(float(x)) for x in ours.sum(0) / theirs.sum(0))
    value = float(ours.sum() / theirs.sum())
    return Result(what, value, "x", lower, upper, target, False, f"mask ratios {by_ratio}")


def comparisons(measured: Mapping[str, Quality], full: Quality) -> list[Result]:
    """The figure to reach, and what else is worth a ratio."""
    pairs: Iterable[tuple[str, str, float | None]] = (
        ("hessian", "lsq", 0.5),
        ("hessian", "minmax", None),
        ("hessian, rotated", "hessian", None),
        ("hessian", "GPTQ, lsq grid", None),
        ("hessian", "GPTQ, weighted lsq grid", None),
        ("hessian, own trajectory alone", "lsq", None),
        ("lsq, importances", "lsq", None),
        ("hessian coded", "lsq coded", None),
        ("hessian coded, rotated", "hessian coded", None),
    )
    return [one for pair in pairs for one in comparison(*pair[:2], measured, full, pair[2])]
