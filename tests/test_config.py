"""Settings from YAML and flags; each refusal in one line with file, line and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from thermoq.config import LayerRule, QuantizationConfig, load_config
from thermoq.encodings import EncodingChoice
from thermoq.errors import UsageError
from thermoq.settings_base import Settings

# Key for key the sample of the design document, section 11.
SAMPLE = """
quantization:
  bit_width: 2                  # 2 | 4 | 8
  group_size: null              # null: the encoding's default (affine 64)
  encoding: null                # affine | coded; null: the measured best for bit_width (8: q8)
  super_block: null             # coded only, with scale_bits and minimum_bits
  scale_bits: null
  minimum_bits: null
  method: null                  # minmax | lsq | hessian
  rotation: null                # none | hadamard
  num_time_groups: 4
  activation_bits: 8            # 4 | 8
  calibration: null
  seed: 0
  threads: 0                    # 0: all
  max_shard_size: 5GB
  thermodynamic:
    validation:   {enabled: true, smoothness_threshold: 0.3}
    smoothing:    {enabled: false, interpolation: linear, window: null}
    optimization: {enabled: false, coupling: 1.0}
  layers:                       # first match wins, glob on the tensor name
    - {match: "*.proj_out.*", bit_width: 8}
    - {match: "pos_embed*", skip: true}
"""


@pytest.fixture
def load(tmp_path: Path):
    def run(text: str | bytes, **overrides: object) -> QuantizationConfig:
        path = tmp_path / "thermoq.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return run


@pytest.fixture
def refused(load, tmp_path: Path):
    """Return the message of a refusal, without the path of the file at its start."""

    def run(text: str | bytes, **overrides: object) -> str:
        with pytest.raises(UsageError) as raised:
            load(text, **overrides)
        message = str(raised.value)
        assert "\n" not in message
        assert message.count(str(tmp_path)) <= 1
        return message.replace(f"{tmp_path}/", "")

    return run


def within(*lines: str) -> str:
    return "quantization:\n" + "".join(f"  {line}\n" for line in lines)


# What is accepted.


def test_sample_of_the_design_loads_and_says_the_defaults(load) -> None:
    config = load(SAMPLE)
    assert config.layers == (
        LayerRule(match="*.proj_out.*", bit_width=8),
        LayerRule(match="pos_embed*", skip=True),
    )
    assert config.model_copy(update={"layers": ()}) == QuantizationConfig()


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "quantization:\n", "quantization:\n  thermodynamic:\n  layers:\n",
     "quantization: {thermodynamic: {validation: , smoothing: , optimization: }}"],
)  # fmt: skip
def test_empty_means_defaults(load, text: str) -> None:
    assert load(text) == QuantizationConfig() == load_config(None)


def test_resolved_values() -> None:
    config = QuantizationConfig()
    assert (config.resolved_method, config.resolved_sampling_steps) == ("lsq", 50)
    assert config.encoding_choice == EncodingChoice("lsq")
    assert config.max_shard_bytes == 5 * 10**9
    assert QuantizationConfig(sampling_steps=20).resolved_sampling_steps == 20
    given = {
        "method": "lsq", "encoding": "coded", "group_size": 16, "super_block": 48,
        "scale_bits": 3, "minimum_bits": 8,
    }  # fmt: skip
    assert QuantizationConfig(**given).encoding_choice == EncodingChoice(**given)
    assert QuantizationConfig(bit_width=8, group_size=32).encoding_choice.group_size == 32


@pytest.mark.parametrize(
    ("given", "method", "rotation"),
    [
        ({}, "lsq", "hadamard"),
        ({"bit_width": 4}, "lsq", "none"),
        ({"encoding": "affine"}, "lsq", "none"),
        ({"rotation": "hadamard"}, "lsq", "hadamard"),
        ({"calibration": "c"}, "hessian", "hadamard"),
        ({"calibration": "c", "bit_width": 4}, "hessian", "none"),
        ({"calibration": "c", "group_size": 16}, "hessian", "none"),
        ({"calibration": "c", "encoding": "coded"}, "hessian", "none"),
        ({"calibration": "c", "encoding": "affine"}, "hessian", "hadamard"),
        ({"calibration": "c", "encoding": "affine", "rotation": "none"}, "hessian", "none"),
        ({"calibration": "c", "encoding": "affine", "max_size": "1GB"}, "hessian", "hadamard"),
        ({"calibration": "c", "encoding": "affine", "bit_width": 2}, "hessian", "hadamard"),
        ({"calibration": "c", "encoding": "coded", "rotation": "hadamard"}, "hessian", "hadamard"),
        ({"calibration": "c", "encoding": "affine", "method": "lsq"}, "lsq", "none"),
        ({"calibration": "c", "method": "minmax"}, "minmax", "none"),
    ],
)
def test_what_a_calibration_changes(given: dict[str, Any], method: str, rotation: str) -> None:
    config = QuantizationConfig(**given)
    assert (config.resolved_method, config.resolved_rotation) == (method, rotation)
    assert config.encoding_choice.method == method


def test_what_goes_with_lsq() -> None:
    rule = LayerRule(match="a", group_size=65544)
    assert QuantizationConfig(method="minmax", group_size=65536).fits_lsq
    assert not QuantizationConfig(method="minmax", group_size=65544).fits_lsq
    assert not QuantizationConfig(method="minmax", layers=(rule,)).fits_lsq


@pytest.mark.parametrize(
    ("size", "expected"),
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("2GiB", 2**31), ("64kib", 2**16), ("1 TB", 10**12),
     ("1.5GB", 15 * 10**8), ("7B", 7), ("123", 123), (4096, 4096), ("3KB", 3000), ("1MiB", 2**20)],
)  # fmt: skip
def test_shard_sizes(load, size: str | int, expected: int) -> None:
    assert load(within(f"max_shard_size: {size}")).max_shard_bytes == expected


def test_every_key_has_words_for_its_errors() -> None:
    def check(model: type[BaseModel]) -> None:
        assert issubclass(model, Settings)
        for name, info in model.model_fields.items():
            section = QuantizationConfig()
            nested = getattr(section.thermodynamic, name, None) or getattr(section, name, None)
            if isinstance(nested, BaseModel):
                check(type(nested))
            else:
                assert info.description, name

    check(QuantizationConfig)
    check(LayerRule)


# Flags.


def test_flags_win_and_none_is_not_given(load) -> None:
    text = within("bit_width: 2", "thermodynamic: {validation: {smoothness_threshold: 0.1}}")
    config = load(text, bit_width=4, smoothness_threshold=0.2, seed=None, components=[])
    assert config.bit_width == 4
    assert config.thermodynamic.validation.smoothness_threshold == 0.2


def test_every_flag_reaches_its_key() -> None:
    given: dict[str, Any] = {
        "bit_width": 4, "group_size": 32, "encoding": "coded", "method": "lsq",
        "super_block": 96, "scale_bits": 5, "minimum_bits": 3,
        "rotation": "none", "num_time_groups": 8, "activation_bits": 4,
        "sensitive_activation_bits": 4, "sampling_steps": 20,
        "seed": 7, "threads": 2, "max_shard_size": "1GB", "components": ("vae",),
        "smoothness_threshold": 0.2, "validation": False, "interpolation": "cubic", "window": 10,
        "coupling": 2, "gain_estimator": "variance", "output_correction": False, "sequential": True,
        "clip_search": False, "row_choice": "pooled", "smoothing": True, "optimization": False,
        "phase": "baseline",
    }  # fmt: skip
    config = load_config(None, given).model_dump()
    thermodynamic = config.pop("thermodynamic")
    for name, value in given.items():
        if name in config:
            assert config[name] == value
    assert thermodynamic == {
        "validation": {"enabled": False, "smoothness_threshold": 0.2},
        "smoothing": {"enabled": True, "interpolation": "cubic", "window": 10.0},
        "optimization": {
            "enabled": False, "coupling": 2.0, "gain_estimator": "variance",
            "output_correction": False, "sequential": True,
            "clip_search": False, "row_choice": "pooled",
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "switches"),
    [
        ({"phase": "baseline"}, (False, False)),
        ({"phase": "smooth"}, (True, False)),
        ({"phase": "optimize"}, (True, True)),
        ({"phase": "optimize", "smoothing": False}, (False, True)),
        ({"phase": "smooth", "optimization": True}, (True, True)),
        ({"optimization": True}, (False, True)),
        ({"optimization": False, "phase": "optimize"}, (True, False)),
    ],
)
def test_phase_sets_both_switches_and_the_explicit_ones_win(given, switches) -> None:
    found = load_config(None, {**given, "calibration": "c.safetensors"}).thermodynamic
    assert (found.smoothing.enabled, found.optimization.enabled) == switches
    names = {(False, False): "baseline", (True, False): "smooth"}
    assert found.phase == names.get(switches, "optimize")


def test_phase_baseline_switches_the_later_phases_off(load) -> None:
    text = within("thermodynamic: {smoothing: {enabled: true}, optimization: {enabled: true}}")
    assert load(text, phase="baseline") == QuantizationConfig()


def test_layers_of_the_python_interface() -> None:
    config = load_config(
        None, {"layers": [{"match": "a", "bit_width": 4}, LayerRule(match="b", skip=True)]}
    )
    assert [rule.match for rule in config.layers] == ["a", "b"]  # fmt: skip


def test_numpy_scalars_are_numbers() -> None:
    given = {
        "bit_width": np.int64(4), "smoothness_threshold": np.float64(0.2), "seed": np.uint8(7),
        "validation": np.bool_(False), "components": np.array(["vae"]).tolist(),
        "layers": ({"match": np.str_("a"), "group_size": np.int32(8)},),
    }  # fmt: skip
    config = load_config(None, given)
    assert (config.bit_width, config.seed, config.components) == (4, 7, ("vae",))
    assert not config.thermodynamic.validation.enabled
    assert config.layers == (LayerRule(match="a", group_size=8),)


@pytest.mark.parametrize(
    ("source", "got"), [({"bit_width": 2}, "{bit_width: 2}"), ([1], "a list"), (3, "3")]
)
def test_a_configuration_of_another_type(source: Any, got: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_config(source)
    assert str(raised.value) == (
        f"config: expected a QuantizationConfig or the path of a YAML file, got {got}"
    )


def test_flags_over_a_configuration() -> None:
    base = QuantizationConfig(group_size=64, layers=(LayerRule(match="a", skip=True),))
    assert load_config(base) == base
    assert load_config(base, {"seed": 3}) == base.model_copy(update={"seed": 3})
    with pytest.raises(UsageError) as raised:
        load_config(base, {"bit_width": 8})
    assert str(raised.value) == (
        "configuration: group_size: expected 32 or null (bit_width 8 has groups of 32), got 64"
    )


def test_where_a_setting_was_given(load, tmp_path: Path) -> None:
    config = load(within("seed: 1", "max_size: 1GB", "threads: 3"), threads=2)
    assert config.place_of("max_size") == f"{tmp_path}/thermoq.yaml, line 3: max_size"
    assert config.place_of("threads") == "--threads"
    assert config.place_of("target_bits") == "configuration: target_bits"
    assert QuantizationConfig(max_size="1GB").place_of("max_size") == "configuration: max_size"
    assert config == QuantizationConfig(seed=1, max_size="1GB", threads=2)
    assert config.model_copy(update={"seed": 2}).place_of("threads") == "--threads"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"bit_width": 5}, "--bit-width: expected 2, 3, 4 or 8, got 5"),
        ({"bit_width": np.int64(5)}, "--bit-width: expected 2, 3, 4 or 8, got 5"),
        ({"bit_width": 3}, "--bit-width: expected 2, 4 or 8 (3 bits are of the encoding trellis "
         "alone), got 3"),
        ({"bit_width": 3, "encoding": "coded", "super_block": 256}, "--bit-width: expected 2, 4 or "
         "8 (3 bits are of the encoding trellis alone), got 3"),
        ({"encoding": "trellis", "method": "minmax"}, "--encoding: expected affine or null "
         "(trellis needs method lsq), got 'trellis'"),
        ({"encoding": "trellis", "scale_bits": 4}, "--scale-bits: expected null (encoding "
         "trellis), got 4"),
        ({"encoding": "trellis", "effort": 6}, "--effort: expected an integer from 1 to 5, or "
         "null, got 6"),
        ({"effort": 5, "bit_width": 4}, "--effort: expected null (the encoding is not trellis), "
         "got 5"),
        ({"bit_width": np.array([2, 4])}, "--bit-width: expected 2, 3, 4 or 8, got [2 4]"),
        ({"bit_width": np.eye(2)}, "--bit-width: expected 2, 3, 4 or 8, got [[1. 0.] [0. 1.]]"),
        ({"method": "hessian"}, "--method: expected minmax, lsq or null (hessian needs a "
         "calibration), got 'hessian'"),
        ({"rotation": "hadamard", "method": "minmax"}, "--rotation: expected none or null "
         "(hadamard needs method lsq or hessian), got 'hadamard'"),
        ({"method": "minmax", "encoding": "coded"}, "--encoding: expected affine or null (coded "
         "needs method lsq), got 'coded'"),
        ({"layers": [{"match": "a", "group_size": 48}], "super_block": 384 * 48}, "--super-block: "
         "expected a multiple of 16 (the group size at 2 bits) up to 4096, or null, got 18432"),
        ({"threads": -1}, "--threads: expected an integer from 0 (all cores) to 1024, got -1"),
        ({"num_time_groups": 0}, "--num-time-groups: expected an integer of at least 1, got 0"),
        ({"max_shard_size": "x"}, "--max-shard-size: expected a size of at least one byte such as "
         "5GB, 500MB or 2GiB, got 'x'"),
        ({"smoothing": 1}, "--smoothing: expected true or false, got 1"),
        ({"optimization": True}, "--optimization: expected a --calibration beside the phase "
         "optimize, which `thermoq calibrate --model DIR --output CALIBRATION.safetensors` makes, "
         "got null"),
        ({"phase": "optimize"}, "--phase: expected a --calibration beside the phase optimize, "
         "which `thermoq calibrate --model DIR --output CALIBRATION.safetensors` makes, got null"),
        ({"phase": "smoother"}, "--phase: expected baseline, smooth, optimize, got 'smoother'"),
        ({"gain_estimator": "best"}, "--gain-estimator: expected variance, unbiased, "
         "least_squares or null, got 'best'"),
        ({"clip_search": None, "row_choice": "best"}, "--row-choice: expected none, pooled, "
         "per_time_group or null, got 'best'"),
        ({"clip_search": "no"}, "--clip-search: expected true, false or null, got 'no'"),
        ({"output_correction": "yes"}, "--output-correction: expected true, false or null, got "
         "'yes'"),
        ({"calibration": 3}, "--calibration: expected the path of a calibration file, or null, "
         "got 3"),
        ({"grouping": "even"}, "--grouping: expected uniform or adaptive, got 'even'"),
        ({"grouping": "adaptive"}, "--grouping: expected uniform (adaptive needs a calibration), "
         "got 'adaptive'"),
        ({"components": ["../vae"]}, "--component: components[0]: expected a list of component "
         "folder names, got '../vae'"),
        ({"bit_width": 8, "group_size": 64}, "--group-size: expected 32 or null (bit_width 8 has "
         "groups of 32), got 64"),
        ({"layers": [{"match": "a", "bit_width": 5}]}, "--layers: layers[0].bit_width: expected "
         "2, 3, 4 or 8, got 5"),
        ({"layers": [{"match": "a", "bit_width": 3}]}, "--layers: layers[0].bit_width: expected "
         "2, 4 or 8 (3 bits are of the encoding trellis alone), or encoding trellis beside it, "
         "got 3"),
        ({"bitwidth": 2}, "unknown setting 'bitwidth' (did you mean bit_width?)"),
    ],
)  # fmt: skip
def test_bad_flags(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_config(None, overrides)
    assert str(raised.value) == message


# What is refused in a file.

BAD_VALUES = [
    (["bit_width: 3"], 2, "bit_width: expected 2, 4 or 8 (3 bits are of the encoding trellis "
     "alone), got 3"),
    (["bit_width: '2'"], 2, "bit_width: expected 2, 3, 4 or 8, got '2'"),
    (["bit_width: true"], 2, "bit_width: expected 2, 3, 4 or 8, got true"),
    (["bit_width: [2]"], 2, "bit_width: expected 2, 3, 4 or 8, got a list"),
    (["group_size: 12"], 2, "group_size: expected a multiple of 8, or null, got 12"),
    (["group_size: 0"], 2, "group_size: expected a multiple of 8, or null, got 0"),
    (["bit_width: 8", "group_size: 64"], 3,
     "group_size: expected 32 or null (bit_width 8 has groups of 32), got 64"),
    (["encoding: coded", "method: minmax"], 2,
     "encoding: expected affine or null (coded needs method lsq), got 'coded'"),
    (["encoding: q8"], 2, "encoding: expected affine, coded, trellis or null, got 'q8'"),
    (["encoding: coded", "bit_width: 8"], 2,
     "encoding: expected null (bit_width 8 is stored as q8), got 'coded'"),
    (["group_size: 65544"], 2,
     "group_size: expected at most 65536 (method lsq), or null, got 65544"),
    (["group_size: 65544", "method: lsq"], 2,
     "group_size: expected at most 65536 (method lsq), or null, got 65544"),
    (["bit_width: 8", "encoding: affine"], 3,
     "encoding: expected null (bit_width 8 is stored as q8), got 'affine'"),
    (["super_block: 1"], 2, "super_block: expected a multiple of group_size, or null, got 1"),
    (["super_block: 264"], 2,
     "super_block: expected a multiple of 16 (the group size at 2 bits) up to 4096, or null, "
     "got 264"),
    # A run at 2 bits has modulation layers at 4.
    (["super_block: 48"], 2,
     "super_block: expected a multiple of 32 (the group size at 4 bits) up to 8192, or null, "
     "got 48"),
    (["super_block: 100", "group_size: 40"], 2,
     "super_block: expected a multiple of group_size, or null, got 100"),
    (["super_block: 96", "group_size: 40"], 2,
     "super_block: expected a multiple of 40 (the group size at 2 bits) up to 10240, or null, "
     "got 96"),
    (["bit_width: 4", "super_block: 8224"], 3,
     "super_block: expected a multiple of 32 (the group size at 4 bits) up to 8192, or null, "
     "got 8224"),
    (["scale_bits: 0"], 2, "scale_bits: expected 1 to 8, or null, got 0"),
    (["minimum_bits: 9"], 2, "minimum_bits: expected 1 to 8, or null, got 9"),
    (["minimum_bits: 4.0"], 2, "minimum_bits: expected 1 to 8, or null, got 4.0"),
    (["scale_bits: 4", "encoding: affine"], 2,
     "scale_bits: expected null (encoding affine), got 4"),
    (["minimum_bits: 4", "method: minmax"], 2,
     "minimum_bits: expected null (method minmax, encoding affine), got 4"),
    (["super_block: 256", "bit_width: 8"], 2,
     "super_block: expected null (bit_width 8 is stored as q8), got 256"),
    (["method: minmax", "rotation: hadamard"], 3,
     "rotation: expected none or null (hadamard needs method lsq or hessian), got 'hadamard'"),
    (["calibration: c.safetensors", "method: minmax", "rotation: hadamard"], 4,
     "rotation: expected none or null (hadamard needs method lsq or hessian), got 'hadamard'"),
    (["method: minmax", "encoding: trellis"], 3,
     "encoding: expected affine or null (trellis needs method lsq), got 'trellis'"),
    (["method: hessian"], 2,
     "method: expected minmax, lsq or null (hessian needs a calibration), got 'hessian'"),
    (["method: mse"], 2, "method: expected minmax, lsq, hessian or null, got 'mse'"),
    (["rotation: hadamard", "bit_width: 8"], 2,
     "rotation: expected none or null (bit_width 8 is stored as q8, which is not rotated), got "
     "'hadamard'"),
    (["rotation: hadamard", "bit_width: 8", "layers: [{match: a, bit_width: 8}]"], 2,
     "rotation: expected none or null (bit_width 8 is stored as q8, which is not rotated), got "
     "'hadamard'"),
    (["rotation: random"], 2, "rotation: expected none, hadamard or null, got 'random'"),
    (["num_time_groups: 0"], 2, "num_time_groups: expected an integer of at least 1, got 0"),
    (["num_time_groups: 4.5"], 2, "num_time_groups: expected an integer of at least 1, got 4.5"),
    (["activation_bits: 2"], 2, "activation_bits: expected 4 or 8, got 2"),
    (["sensitive_activation_bits: 5"], 2, "sensitive_activation_bits: "
     "expected 4, 8, none or null, got 5"),
    (["calibration: ''"], 2,
     "calibration: expected the path of a calibration file, or null, got ''"),
    (["grouping: adaptive"], 2,
     "grouping: expected uniform (adaptive needs a calibration), got 'adaptive'"),
    (["sampling_steps: 0"], 2, "sampling_steps: expected an integer of at least 1, or null, got 0"),
    (["seed: -1"], 2, "seed: expected an integer from 0 to 2^64 - 1, got -1"),
    (["threads: 1025"], 2, "threads: expected an integer from 0 (all cores) to 1024, got 1025"),
    (["max_shard_size: 5 parsecs"], 2, "max_shard_size: expected a size of at least one byte such "
     "as 5GB, 500MB or 2GiB, got '5 parsecs'"),
    (["max_shard_size: 0"], 2, "max_shard_size: expected a size of at least one byte such as 5GB, "
     "500MB or 2GiB, got 0"),
    (["components: vae"], 2, "components: expected a list, got 'vae'"),
    (["components: [a/b]"], 2,
     "components[0]: expected a list of component folder names, got 'a/b'"),
    (["thermodynamic: 3"], 2, "thermodynamic: expected a mapping, got 3"),
    (["thermodynamic:", "  validation:", "    enabled: 1"], 4,
     "thermodynamic.validation.enabled: expected true or false, got 1"),
    (["thermodynamic:", "  validation: {smoothness_threshold: 0}"], 3,
     "thermodynamic.validation.smoothness_threshold: expected a number above 0, at most 1, got 0"),
    (["thermodynamic:", "  validation: {smoothness_threshold: .nan}"], 3,
     "thermodynamic.validation.smoothness_threshold: expected a number above 0, at most 1, "
     "got nan"),
    (["thermodynamic:", "  smoothing:", "    enabled: 2"], 4, "thermodynamic.smoothing.enabled: "
     "expected true or false, got 2"),
    (["thermodynamic: {optimization: {enabled: true}}"], 2, "thermodynamic.optimization.enabled: "
     "expected a --calibration beside the phase optimize, which `thermoq calibrate --model DIR "
     "--output CALIBRATION.safetensors` makes, got null"),
    (["thermodynamic: {smoothing: {interpolation: quintic}}"], 2,
     "thermodynamic.smoothing.interpolation: expected linear, cubic or sigmoid, got 'quintic'"),
    (["thermodynamic: {smoothing: {window: 0}}"], 2,
     "thermodynamic.smoothing.window: expected a number of timesteps above 0, or null, got 0"),
    (["thermodynamic: {optimization: {coupling: -1}}"], 2,
     "thermodynamic.optimization.coupling: expected a number of at least 0, got -1"),
    (["layers: all"], 2, "layers: expected a list, got 'all'"),
    (["layers:", "  - 3"], 3, "layers[0]: expected a mapping, got 3"),
    (["layers:", "  - {match: a, skip: true}", "  - {bit_width: 2}"], 4,
     "layers[1].match: expected a glob on the tensor name, got nothing"),
    (["layers:", "  - {match: ''}"], 3,
     "layers[0].match: expected a glob on the tensor name, got ''"),
    (["layers:", "  - match: a"], 3,
     "layers[0]: expected bit_width, group_size, encoding and/or activation_bits, or skip alone, "
     "got {match: 'a'}"),
    (["layers:", "  - {match: a, skip: true, bit_width: 2}"], 3, "layers[0]: expected bit_width, "
     "group_size, encoding and/or activation_bits, or skip alone, got {match: 'a', skip: true, "
     "bit_width: 2}"),
    (["method: minmax", "layers:", "  - {match: a, encoding: trellis}"], 4,
     "layers[0].encoding: expected affine (trellis needs method lsq), got 'trellis'"),
    (["layers:", "  - {match: a, activation_bits: 2}"], 3,
     "layers[0].activation_bits: expected 4, 8 or none, got 2"),
    (["layers:", "  - {match: a, encoding: q8}"], 3,
     "layers[0].encoding: expected affine, coded or trellis, got 'q8'"),
    (["layers:", "  - {match: a, bit_width: 8, encoding: coded}"], 3, "layers[0]: expected no "
     "encoding with bit_width 8, which is stored as q8, got {match: 'a', bit_width: 8, encoding: "
     "'coded'}"),
    # Rules that go well by themselves, but not with the run.
    (["method: minmax", "layers:", "  - {match: a, skip: true}", "  - match: b",
      "    encoding: coded"], 6,
     "layers[1].encoding: expected affine (coded needs method lsq), got 'coded'"),
    (["layers:", "  - {match: a, group_size: 65544}"], 3,
     "layers[0].group_size: expected at most 65536 (method lsq), got 65544"),
    (["super_block: 384", "layers:", "  - {match: a, group_size: 40}"], 4,
     "layers[0].group_size: expected groups that super_block 384 holds 1 to 256 of, got 40"),
    (["bit_width: 4", "super_block: 8192", "layers:", "  - {match: a, bit_width: 2}"], 5,
     "layers[0].bit_width: expected groups that super_block 8192 holds 1 to 256 of, got 16"),
    (["layers:", "  - {match: a, bit_width: 8, group_size: 64}"], 3, "layers[0]: expected "
     "group_size 32 or none with bit_width 8, got {match: 'a', bit_width: 8, group_size: 64}"),
    (["layers:", "  - match: a", "    bit_width: 5"], 4,
     "layers[0].bit_width: expected 2, 3, 4 or 8, got 5"),
    (["layers:", "  - {match: a, group_size: 9}"], 3,
     "layers[0].group_size: expected a multiple of 8, got 9"),
]  # fmt: skip


GOOD_VALUES = [
    ["super_block: 48", "group_size: 16"],
    ["encoding: trellis", "bit_width: 3", "effort: 1"],
    ["encoding: trellis", "group_size: 64"],
    ["layers: [{match: a, encoding: trellis, bit_width: 3}]", "effort: 2"],
    ["super_block: 4096"],
    ["group_size: 65536"],
    ["group_size: 65544", "method: minmax"],
    ["encoding: coded", "method: lsq", "scale_bits: 1", "minimum_bits: 8"],
    ["encoding: affine", "method: lsq"],
    ["super_block: 384", "layers: [{match: a, group_size: 40, encoding: affine}]"],
    ["super_block: 384", "layers: [{match: a, group_size: 32, bit_width: 8}]"],
    ["encoding: affine", "layers: [{match: a, encoding: coded}]"],
    ["rotation: hadamard"],
    ["rotation: hadamard", "target_bits: 3.0"],
    ["rotation: hadamard", "bit_width: 8", "layers: [{match: a, bit_width: 4}]"],
    ["rotation: none", "bit_width: 8"],
    ["rotation: none", "method: minmax"],
    ["calibration: c.safetensors", "method: hessian", "scale_bits: 3", "rotation: none"],
]


@pytest.mark.parametrize("lines", GOOD_VALUES)
def test_combinations_that_go(load, lines: list[str]) -> None:
    load(within(*lines))


@pytest.mark.parametrize(("lines", "line", "message"), BAD_VALUES)
def test_bad_values(refused, lines: list[str], line: int, message: str) -> None:
    assert refused(within(*lines)) == f"thermoq.yaml, line {line}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (within("seed: 1", "bitwidth: 2"),
         "line 3: unknown key 'bitwidth' (did you mean bit_width?)"),
        (within("smoothness_threshold: 0.2"), "line 2: unknown key 'smoothness_threshold' (did you "
         "mean thermodynamic.validation.smoothness_threshold?)"),
        (within("thermodynamic: {validaton: {}}"),
         "line 2: unknown key 'thermodynamic.validaton' (did you mean validation?)"),
        (within("thermodynamic: {validation: {foo: 1}}"), "line 2: unknown key "
         "'thermodynamic.validation.foo' (expected one of enabled, smoothness_threshold)"),
        (within("layers:", "  - {match: a, bits: 8}"), "line 3: unknown key 'layers[0].bits' "
         "(expected one of match, bit_width, skip, group_size, encoding, activation_bits)"),
        ("bit_width: 2", "line 1: unknown key 'bit_width' (settings go under quantization:)"),
        ("\nquant: 2", "line 2: unknown key 'quant' (expected quantization)"),
        ("- a", "line 1: expected a mapping with the key quantization, got a list"),
        ("quantization: 3", "line 1: quantization: expected a mapping, got 3"),
        (within("bit_width: 9", "seed: -1"), "line 2: bit_width: expected 2, 3, 4 or 8, got 9"),
    ],
)  # fmt: skip
def test_unknown_keys_and_shapes(refused, text: str, message: str) -> None:
    assert refused(text) == f"thermoq.yaml, {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (within("bit_width: [2"), r"line 3, column 1: malformed YAML: .*expected ',' or ']'"),
        (within("\tbit_width: 2"), r"line 2, column 3: malformed YAML: .*cannot start any token"),
        (within("bit_width: 2", "bit_width: 4"),
         "line 3, column 3: malformed YAML: expected each key once, got quantization.bit_width "
         "again"),
        (within("layers:", "  - {match: a, match: b}"), "line 3, column 18: malformed YAML: "
         r"expected each key once, got quantization.layers\[0\].match again"),
        (within("seed: &a 3", "threads: *a"), "line 2, column 9: malformed YAML: expected the "
         "value itself, got an anchor or alias"),
        (within("seed: *a"), "line 2, column 9: malformed YAML: expected the value itself"),
        (within("? [a]", ": 3"), "line 2, column 5: malformed YAML: expected a word as the key"),
        (within("seed: !!python/object/apply:os.system ['true']"), "line 2, column 9: malformed "
         "YAML: expected a plain value, got the tag tag:yaml.org,2002:python/object/apply:"),
        (within("seed: !custom 3"), "malformed YAML: expected a plain value, got the tag !custom"),
        (within("seed: !!int word"), "malformed YAML: expected a number, got 'word'"),
        (within("seed: " + "9" * 5000), "malformed YAML: expected a number, got '9{40}'"),
        ("a: b\n---\nc: d", "line 2, column 1: malformed YAML: expected a single document"),
        ("[" * 1500, "malformed YAML: brackets nested too deeply"),
        (b"\x00\x01", "malformed YAML: unacceptable character"),
        (b"quantization: \xff\xfe", "malformed YAML: "),
    ],
)  # fmt: skip
def test_malformed_yaml(refused, text: str | bytes, message: str) -> None:
    assert re.search(message, refused(text))
    assert refused(text).startswith("thermoq.yaml")


def test_words_that_yaml_takes_for_dates_are_words(load) -> None:
    config = load(within("layers:", "  - {match: 2020-13-45, skip: true}"))
    assert config.layers[0].match == "2020-13-45"


def test_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(UsageError) as raised:
        load_config(missing)
    assert str(raised.value) == f"{missing}: expected a YAML file, got nothing there"
    with pytest.raises(UsageError, match="expected a YAML file, got Is a directory"):
        load_config(tmp_path)


def test_settings_are_frozen() -> None:
    config = QuantizationConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.bit_width = 4
