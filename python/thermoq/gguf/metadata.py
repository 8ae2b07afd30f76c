"""What a GGUF file says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any, Final

from thermoq.checkpoint.manifest import read_content
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.gguf.names import FULL_NAME_KEY

# What ComfyUI-GGUF calls the models that it takes (`IMG_ARCH_LIST` of its loader.py), by the class
# in their config.json.
_ARCHITECTURES: Final = {
    "AuraFlowTransformer2DModel": "aura",
    "CosmosTransformer3DModel": "cosmos",
    "FluxTransformer2DModel": "flux",
    "HiDreamImageTransformer2DModel": "hidream",
    "HunyuanVideoTransformer3DModel": "hyvid",
    "LTXVideoTransformer3DModel": "ltxv",
    "Lumina2Transformer2DModel": "lumina2",
    "QwenImageTransformer2DModel": "qwen_image",
    "SD3Transformer2DModel": "sd3",
    "WanTransformer3DModel": "wan",
    "WanVACETransformer3DModel": "wan",
}

# LlamaFileType of the gguf package; the name of a type that most weights have.
_FILE_TYPES: Final = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q2_K": 10,
    "Q4_K": 14,
    "BF16": 32,
}


def architecture(part: QuantizedComponent) -> str:
    """Return `general.architecture`: lower-case letters, digits and `_`."""
    config = part.component.config or {}
    class_name = config.get("_class_name")
    if class_name == "UNet2DConditionModel":
        return "sdxl" if "add_embedding.linear_1.weight" in part.manifest.tensors else "sd1"
    if class_name in _ARCHITECTURES:
        return _ARCHITECTURES[str(class_name)]
    for value in (class_name, config.get("model_type")):
        if isinstance(value, str) and re.search("[a-z0-9]", value.lower()):
            return re.sub(r"[^a-z0-9]+", "_", value.lower())
    return "unknown"


def key_values(
    part: QuantizedComponent, name: str, weights_by_type: dict[str, int], short: dict[str, str]
) -> Iterable[tuple[str, str | int]]:
    """Yield the metadata: strings and unsigned 32-bit integers, no arrays (see `names`)."""
    manifest = part.manifest
    yield "general.name", name
    yield "general.quantization_version", 2  # GGML_QNT_VERSION
    common = max(weights_by_type, key=lambda key: weights_by_type[key], default="F32")
    if common in _FILE_TYPES:
        yield "general.file_type", _FILE_TYPES[common]
    yield "thermoq.version", metadata.version("thermoq")
    yield "thermoq.component", part.component.name
    yield "thermoq.method", manifest.method
    yield "thermoq.bit_width", manifest.bit_width
    yield "thermoq.tensors_sha256", str(read_content(part.component.directory)["tensors_sha256"])
    fingerprint = _fingerprint(manifest.report)
    if fingerprint:
        yield "thermoq.input_fingerprint", fingerprint
    for full, shortened in short.items():
        if shortened != full:
            yield FULL_NAME_KEY + shortened, full


def _fingerprint(report: dict[str, Any]) -> str:
    provenance = report.get("provenance")
    found = provenance.get("input_fingerprint") if isinstance(provenance, dict) else None
    return found if isinstance(found, str) else ""
