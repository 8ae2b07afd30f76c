"""Make the file that judges samples of the demo's model: `thermoq evaluate` needs no scikit-learn.

A kernel classifier (regularized least squares, one output a class) is fitted to the 80 % of
scikit-learn's digits that the model was trained on; principal axes, mean and covariance are those
of all digits. Needs `pip install thermoq[torch]`, which brings scikit-learn; takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from thermoq.calibration.matching import calibrated_component
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.demonstration import MODEL_FOLDER
from thermoq.evaluation.judge import (
    JUDGE_FILE,
    KERNEL_WIDTH,
    MODEL_FINGERPRINT,
    NUM_CLASSES,
    NUM_COMPONENTS,
    load_judge,
    pixels_of,
)

PACKAGE = Path(__file__).parents[1] / "python" / "thermoq"
RIDGE = 0.1
LARGEST_BYTES = 200_000
REQUIRED_ACCURACY = 0.97


def main() -> int:
    """Fit, write and test; return 1 if the file is too large, or too often wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=PACKAGE / JUDGE_FILE)
    output = parser.parse_args().output
    levels, labels = load_digits(return_X_y=True)
    pixels = pixels_of(levels)
    # As scripts/train_demo_model.py splits them.
    fitted, held_out = train_test_split(
        range(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    support = pixels[fitted]
    squared = np.square(support[:, None] - support[None]).sum(-1)
    kernel = np.exp(-KERNEL_WIDTH * squared) + RIDGE * np.eye(len(support))
    coefficients = np.linalg.solve(kernel, np.eye(NUM_CLASSES)[labels[fitted]])
    _, _, axes = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    axes = np.ascontiguousarray(axes[:NUM_COMPONENTS])
    components = pixels @ axes.T
    save_file(
        {
            "support": levels[fitted].astype(np.uint8),
            "coefficients": coefficients.astype(np.float32),
            "axes": axes,
            "mean": components.mean(axis=0),
            "covariance": np.cov(components, rowvar=False),
        },
        output,
    )
    found = load_judge(output).classes(pixels[held_out])
    accuracy = float(np.mean(found == labels[held_out]))
    print(f"{output}: {output.stat().st_size} bytes, accuracy {accuracy:.1%} on held-out digits")
    with MappedFiles() as files:
        model = open_checkpoint(PACKAGE / MODEL_FOLDER).components[0]
        fingerprint = calibrated_component(model, files).fingerprint
    if fingerprint != MODEL_FINGERPRINT:
        print(f"the model's fingerprint is {fingerprint}; judge.py has {MODEL_FINGERPRINT}")
    is_small = output.stat().st_size <= LARGEST_BYTES
    return 0 if is_small and accuracy >= REQUIRED_ACCURACY else 1


if __name__ == "__main__":
    raise SystemExit(main())
