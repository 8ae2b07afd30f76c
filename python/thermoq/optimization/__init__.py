"""Phase 3: time parameters that make up for what quantization does to a layer (DESIGN section 7).

NumPy and the core alone. `optimize_layer` takes what a calibration kept of a layer's inputs, beside
its weights as they were and as they decode, and returns activation parameters, row gains and row
biases. Codes stay as they are.
"""

from thermoq.optimization.layer import (
    LayerSample,
    OptimizationChoices,
    OptimizedLayer,
    input_sample,
    layer_sample,
    optimize_layer,
)
from thermoq.optimization.samples import InputSample

__all__ = [
    "InputSample",
    "LayerSample",
    "OptimizationChoices",
    "OptimizedLayer",
    "input_sample",
    "layer_sample",
    "optimize_layer",
]
