"""Quantized checkpoints as models that run: `thermoq.load`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermoq.calibration.failures import one_line
from thermoq.calibration.language_configs import language_family, read_config
from thermoq.calibration.packages import require_packages
from thermoq.checkpoint.carry import QUANTIZATION_KEY
from thermoq.checkpoint.layout import DENOISERS
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.checkpoint.untrusted import bad_tensor, shown, shown_path
from thermoq.errors import UsageError
from thermoq.timestep_values import TimestepArgument, TimestepValues

if TYPE_CHECKING:
    import torch
    from torch import nn

    from thermoq.calibration.language_models import LanguageModel


def load(
    directory: Path | str,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    packed: bool = False,
) -> Any:
    """Return the quantized model in `directory` as the torch module that runs it.

    A denoiser comes as the class of diffusers that its config.json names, and goes where the
    original went (`pipe.transformer = thermoq.load(DIR)`). It reads the timestep that it is handed,
    also where that is a noise level or differs within a batch; its layers quantize their inputs and
    correct their rows with the parameters of that timestep, and the output is corrected if the
    checkpoint says so. `with thermoq.timestep(model, t):` overrides what it is handed.

    A masked-diffusion language model (Dream, LLaDA) comes as transformers' causal model of its
    family, made bidirectional: `model(input_ids).logits` [n, length, vocab] lie beside the tokens
    that they predict, whatever the checkpoint's own order. `model.config.mask_token_id` is the mask
    token, `attention_mask` [n, length] hides padding, and the share of masked positions outside
    the prompt tells the timestep. The prompt is what stands in front of the first mask when a
    sequence begins.

    `dtype` (None: float32) is what layers multiply in: float32, float16 or bfloat16; quantized
    inputs and row corrections are computed in float32 all the same. `packed` keeps weights as
    their codes, a fraction of the memory, and decodes them each time a layer runs. The model is in
    evaluation mode and has no gradients of its parameters.

    Raises InputError for what is missing, broken, or of a class that neither diffusers nor
    transformers has; UsageError for a pipeline with several quantized denoisers, for another
    dtype, and without the torch extra.
    """
    require_packages("torch", "diffusers", "transformers", verb="load")
    part = _the_only(Path(directory))
    if language_family(part.component.config or {}) is not None:
        from thermoq.runtime.language import Bidirectional

        found = load_quantized_language_model(part, dtype=dtype, packed=packed)
        Bidirectional(found.module, logits_shift=found.logits_shift)
        return found.module.to(device)
    return _load_denoiser(part, dtype, packed=packed).to(device)


def load_quantized_language_model(
    part: QuantizedComponent, *, dtype: torch.dtype | str | None = None, packed: bool = False
) -> LanguageModel:
    """Return a quantized language model as calibration has them, its module as transformers does.

    Raises InputError and UsageError as `load` does.
    """
    from thermoq.calibration import language_models
    from thermoq.runtime.assembly import Assembly
    from thermoq.runtime.masks import MaskRatios
    from thermoq.runtime.weights import checked_dtype

    wanted, directory = checked_dtype(dtype), part.component.directory
    config = read_config(_config(part), directory)
    with _loading(directory):
        module = language_models.empty_module(config)
        names: dict[str, str] = {}
        for stored in part.manifest.tensors:
            name = language_models.name_in_module(config, stored)
            if names.setdefault(name, stored) != stored:
                problem = f"expected it once, got {shown(names[name])} too"
                raise bad_tensor(directory, stored, problem)
        if config.tied:
            names.setdefault("lm_head.weight", names["model.embed_tokens.weight"])
        read = MaskRatios(config.mask_token_id, part.manifest.schedule.num_timesteps)
        Assembly(part, module, names, lambda name: wanted, read).run(packed=packed)
        model = language_models.assembled(directory, config, module, names)
    module.config.mask_token_id = config.mask_token_id
    return model


def _load_denoiser(
    part: QuantizedComponent, dtype: torch.dtype | str | None, *, packed: bool
) -> nn.Module:
    from thermoq.calibration.loading import denoiser_class
    from thermoq.runtime.assembly import Assembly
    from thermoq.runtime.weights import checked_dtype

    wanted, directory = checked_dtype(dtype), part.component.directory
    of_diffusers = denoiser_class(part.component)
    with _loading(directory), _without_weights(wanted):
        module = of_diffusers.from_config(_config(part))
    manifest = part.manifest
    argument = TimestepArgument(module.forward)
    meaning = TimestepValues(
        manifest.schedule.kind, manifest.schedule.num_timesteps, manifest.timestep_table
    )

    def read(args: Any, kwargs: Any) -> list[float] | None:
        values = argument.values(args, kwargs)
        return None if values is None else meaning.timesteps(values)

    with _loading(directory):
        names = _names_in(module, part)
        Assembly(part, module, names, _dtypes_of(module, wanted), read).run(packed=packed)
    return module  # type: ignore[no-any-return]  # what diffusers' class makes


def _the_only(directory: Path) -> QuantizedComponent:
    """Return the component to load; UsageError if there are several, for their names."""
    _, parts = open_quantized(directory)
    denoisers = [part for part in parts if part.component.name in DENOISERS]
    found = denoisers or list(parts)
    if len(found) > 1:
        names = [part.component.name for part in found]
        raise UsageError(
            f"{shown_path(directory)}: expected one quantized model, got {' and '.join(names)}; "
            f"load each by itself, such as {shown_path(directory / names[0])}"
        )
    return found[0]


def _config(part: QuantizedComponent) -> dict[str, Any]:
    """Return the config.json of the source."""
    config = part.component.config or {}
    return {key: value for key, value in config.items() if key != QUANTIZATION_KEY}


@contextmanager
def _loading(directory: Path) -> Iterator[None]:
    from thermoq.calibration.packages import silenced

    with one_line(directory, "cannot be loaded", "packed=True"), silenced():
        yield


@contextmanager
def _without_weights(dtype: torch.dtype) -> Iterator[None]:
    """Let modules be made without memory for parameters; what they compute is there, in `dtype`."""
    import torch
    from torch import nn

    real = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        real(module, name, parameter)
        if parameter is not None:
            empty = nn.Parameter(parameter.to("meta"), requires_grad=False)
            module._parameters[name] = empty

    before = torch.get_default_dtype()
    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        nn.Module.register_parameter = real  # type: ignore[method-assign]
        torch.set_default_dtype(before)


def _names_in(module: Any, part: QuantizedComponent) -> Mapping[str, str]:
    """Return the tensor of the checkpoint of each name in `module`; diffusers renames some."""
    names = {name: name for name in part.manifest.tensors}
    for renames in ("_fix_state_dict_keys_on_load", "_convert_deprecated_attention_blocks"):
        if hasattr(module, renames):
            getattr(module, renames)(names)
            break
    known = module.state_dict().keys()
    return {name: stored for name, stored in names.items() if name in known}


def _dtypes_of(module: Any, dtype: torch.dtype) -> Any:
    """Return what tells a parameter's dtype: some of diffusers' modules stay in float32."""
    import torch

    kept = module._keep_in_fp32_modules or []
    kept = [kept] if isinstance(kept, str) else kept

    def dtype_of(name: str) -> torch.dtype:
        return torch.float32 if any(one in name.split(".") for one in kept) else dtype

    return dtype_of
