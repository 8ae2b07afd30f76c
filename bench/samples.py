"""Are the demo model's samples still digits? A classifier's accuracy, and the Frechet distance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demo_model import HELD_OUT_SEED, MODEL, NUM_CLASSES, calibrations, load, scheduler_of
from measuring import ROOT, note
from numpy.typing import NDArray
from reports import Options, Report
from torch import Tensor
from variants import COST, MODEL_ITSELF, Missing, made

sys.path.insert(0, str(ROOT / "scripts"))

COMPONENTS = 32  # principal components of the real pixels
BATCH = 250


def report(options: Options) -> Report:
    """Judge samples of every variant."""
    one, of_real = judge()
    count, steps = options.images, options.steps
    rows = [["variant", *COST, "accuracy", "Frechet distance"]]

    def add(name: str, cells: Sequence[str], quality: Quality) -> None:
        rows.append([name, *cells, f"{quality.accuracy:.1%}", f"{quality.distance:.3f}"])

    def judged(directory: Path) -> Quality:
        return one.quality(*draw(directory, count, steps))

    add("real digits, held out", ["", ""], of_real)
    note("samples: drawing with full precision")
    add("full precision", ["16", ""], judged(MODEL))
    missing = []
    for variant, dense in made(MODEL, calibrations(options), MODEL_ITSELF, options):
        if isinstance(dense, Missing):
            missing.append(str(dense))
        else:
            add(variant.name, dense.cost, judged(dense.directory))
    what = (
        f"demo model at INT2: {count} samples of {steps} DDIM steps without guidance, from "
        "the same noise; accuracy of a classifier of real digits; Frechet distance to all real "
        f"digits in their {COMPONENTS} principal components"
    )
    return Report(what, rows, missing)


@dataclass(frozen=True)
class Quality:
    """The share of samples that a classifier gives their label, and their distance to digits."""

    accuracy: float
    distance: float


@dataclass(frozen=True)
class Judge:
    """A classifier fitted to real digits, and where real digits lie in principal components.

    `axes` [components, pixels]; `real` [digits, components].
    """

    classifier: object
    axes: NDArray[np.float64]
    real: NDArray[np.float64]

    def quality(self, images: Tensor, labels: Tensor) -> Quality:
        """Judge images [n, 1, 8, 8] that were drawn for `labels` [n]."""
        pixels = images.flatten(1).double().numpy()
        accuracy = float(self.classifier.score(pixels, labels.numpy()))  # type: ignore[attr-defined]
        return Quality(accuracy, frechet_distance(pixels @ self.axes.T, self.real))


def judge() -> tuple[Judge, Quality]:
    """Return the judge, and what it says of real digits that its classifier has not seen."""
    from sklearn.svm import SVC
    from train_demo_model import load_data

    fitted, held_out = load_data()
    classifier = SVC(gamma=0.02).fit(fitted.images.flatten(1).numpy(), fitted.labels.numpy())
    pixels = torch.cat([fitted.images, held_out.images]).flatten(1).double().numpy()
    _, _, axes = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    axes = axes[:COMPONENTS]
    one = Judge(classifier, axes, pixels @ axes.T)
    return one, one.quality(held_out.images, held_out.labels)


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Frechet distance of normal distributions fitted to rows `a` and `b`.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` (Dowson and Landau 1982); the trace of the root is
    the sum of the singular values of `S1^(1/2) S2^(1/2)`.
    """
    roots = [_root(np.cov(rows, rowvar=False)) for rows in (a, b)]
    traces = sum(float(np.square(root).sum()) for root in roots)
    shared = float(np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum())
    return float(np.square(a.mean(0) - b.mean(0)).sum()) + traces - 2 * shared


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


@torch.no_grad()
def draw(directory: Path, count: int, steps: int) -> tuple[Tensor, Tensor]:
    """Sample `count` images by deterministic DDIM without guidance, labels in turn.

    All variants start from the same noise.
    """
    model, scheduler = load(directory), scheduler_of(MODEL)
    labels = torch.arange(count) % NUM_CLASSES
    states = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(HELD_OUT_SEED + 1))
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        parts = [
            model(part, timestep=timestep.expand(len(part)), class_labels=some).sample
            for part, some in zip(states.split(BATCH), labels.split(BATCH), strict=True)
        ]
        states = scheduler.step(torch.cat(parts), timestep, states).prev_sample
    return states.clamp(-1, 1), labels
