"""Every kind of layer against a plain NumPy model of DESIGN section 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from calibrations import calibrated
from numpy.typing import NDArray
from safetensors_files import write_json, write_safetensors
from thermoq.checkpoint import MappedFiles
from thermoq.checkpoint.quantized import open_quantized
from thermoq.errors import InputError, UsageError
from thermoq.rotation import Rotation
from time_parameter_files import add_time_parameters

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from thermoq.runtime.assembly import Assembly  # noqa: E402
from thermoq.timestep_values import TimestepArgument, TimestepValues  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's

F32 = np.float32
GROUPS = 5
TIMESTEPS = [999, 997.5, 800, 799.2, 799, 798, 750.75, 400.5, 399, 260, 120.125, 30, 0.5, 0]


class Layers(nn.Module):
    """One layer of each kind, none of which knows of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 24)
        self.odd = nn.Linear(37, 9, bias=False)
        self.conv1 = nn.Conv1d(6, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 12, (3, 2), padding=(2, 1), dilation=(2, 1), groups=2)
        self.circular = nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular", bias=False)
        self.conv3 = nn.Conv3d(3, 8, 2, stride=(1, 2, 1))
        self.conv_transpose = nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, groups=2)
        self.deconv = nn.ConvTranspose1d(6, 8, 4, stride=3, output_padding=1, dilation=2)

    def forward(self, inputs: dict[str, Any], timestep: Any, sample: Any = None) -> dict[str, Any]:
        return {name: getattr(self, name)(value) for name, value in inputs.items()}


SHAPES = {
    "linear": (5, 64),
    "odd": (2, 3, 37),
    "conv1": (6, 9),
    "conv2": (8, 5, 6),
    "circular": (4, 5, 4),
    "conv3": (3, 3, 4, 3),
    "conv_transpose": (8, 3, 4),
    "deconv": (6, 5),
}


def inputs_for(samples: int) -> dict[str, Any]:
    random = np.random.default_rng(7)

    def drawn(*shape: int) -> Any:
        return torch.from_numpy(2 * random.standard_normal(shape).astype(F32))

    return {name: drawn(samples, *shape) for name, shape in SHAPES.items()}


def source(folder: Path) -> Path:
    torch.manual_seed(0)
    state = Layers().state_dict()
    tensors = {name: ("F32", tuple(t.shape), t.numpy().tobytes()) for name, t in state.items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", tensors)
    write_json(folder / "config.json", {"_class_name": "Layers"})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Quantized directories, made once for the settings that they are asked for."""
    root = tmp_path_factory.mktemp("layers")
    model = source(root / "model")
    calibrated(model, root / "c.safetensors", num_rows=20)
    done: dict[Any, Path] = {}

    def make(phase: str, **settings: Any) -> Path:
        key = (phase, str(sorted(settings.items())))
        if key not in done:
            out = root / str(len(done))
            quiet = {"method": "lsq", "num_time_groups": GROUPS, "threads": 1, **settings}
            thermoq.quantize(model, out, calibration=str(root / "c.safetensors"), **quiet)
            done[key] = phased(out, phase)
        return done[key]

    return make


def phased(folder: Path, phase: str) -> Path:
    if phase == "baseline":
        return folder
    sets = {"linear.weight": GROUPS, "odd.weight": 1, "conv1.weight": 0}
    # The first window is the widest that there is, the last is none.
    return add_time_parameters(
        folder,
        smoothing=("cubic", [100.0, 60.5, 7.0, 0.0]),
        groups_of_rows=lambda name: sets.get(name, GROUPS) if phase == "optimize" else 0,
    )


def loaded(folder: Path, *, dtype: Any = torch.float32, packed: bool = False) -> Any:
    _, (part,) = open_quantized(folder)
    module = Layers()
    argument, meaning = TimestepArgument(module.forward), TimestepValues("gaussian", 1000)

    def read(args: Any, kwargs: Any) -> Any:
        values = argument.values(args, kwargs)
        return None if values is None else meaning.timesteps(values)

    names = {name: name for name in part.manifest.tensors}
    Assembly(part, module, names, lambda name: dtype, read).run(packed=packed)
    return module


# The model: float64 but for what the format says is f32.


class Plain:
    """DESIGN section 3 by hand, from the files of a component."""

    def __init__(self, folder: Path, tmp_path: Path) -> None:
        self.manifest = json.loads((folder / "thermoq.json").read_text())
        thermoq.export(folder, tmp_path / "dense", dtype="float32")
        self.dense = models.float_tensors(tmp_path / "dense")
        self.stored = models.read_tensors(folder)

    def halves(self, name: str) -> NDArray[np.float32] | None:
        if name not in self.stored:
            return None
        dtype, shape, data = self.stored[name]
        kind = {"F16": np.float16, "U8": np.uint8}[dtype]
        return np.frombuffer(data, kind).reshape(shape).astype(F32)

    def blend(self, t: float) -> tuple[int, np.float32]:
        starts = self.manifest["time_groups"]["time_group_starts"]
        group = max(g for g, start in enumerate(starts) if g == 0 or t <= start)
        smoothing = self.manifest.get("smoothing")
        for i, w in enumerate(smoothing["windows"] if smoothing else ()):
            if w and abs(t - starts[i + 1]) < w:
                u = (starts[i + 1] + w - t) / (2 * w)
                return i, F32(u * u * (3 - 2 * u))
        return group, F32(0)

    def between(self, values: Any, t: float) -> Any:
        if len(values) == 1:  # pooled
            return values[0]
        g, f = self.blend(t)
        following = values[min(g + 1, len(values) - 1)]
        return (F32(1) - f) * values[g] + f * following if f else values[g]

    def activation(self, name: str, x: NDArray[np.float32], t: float) -> NDArray[np.float32]:
        scale = self.halves(f"{name}.activation_scale")
        zero_point = self.halves(f"{name}.activation_zero_point")
        assert scale is not None
        assert zero_point is not None
        entry = self.manifest["tensors"][name]
        top = F32(2 ** entry.get("activation_bits", self.manifest["activation_bits"]) - 1)
        s, z = self.between(scale, t), self.between(zero_point, t)
        if self.blend(t)[1]:
            low = self.between(-zero_point * scale, t)
            high = self.between((top - zero_point) * scale, t)
            s = (high - low) / top
            z = np.clip(np.rint(-low / s), F32(0), top)
        return (np.clip(np.rint(x / s) + z, F32(0), top) - z) * s

    def product(self, name: str, layer: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """`W^ x~` of quantized inputs, which are rotated if the layer's are."""
        weight = self.dense[f"{name}.weight"].astype(np.float64)
        if isinstance(layer, nn.Linear):
            seed = self.manifest["tensors"][f"{name}.weight"].get("rotation_seed")
            if seed is not None:  # W^ R: what is exported has been turned back
                columns = np.eye(weight.shape[1], dtype=F32)
                weight = weight @ Rotation(seed, len(columns)).forward(columns)
            return x @ weight.T
        return np.stack([convolved(layer, weight, one.astype(np.float64)) for one in x])

    def output(self, name: str, layer: Any, x: NDArray[np.float32], t: float) -> Any:
        """`gain * (W^ x~) + bias + c` of a batch at one timestep."""
        tensor = f"{name}.weight"
        seed = self.manifest["tensors"][tensor].get("rotation_seed")
        if seed is not None:
            x = Rotation(seed, x.shape[-1]).forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        y = self.product(name, layer, self.activation(tensor, x, t))
        spatial = (1,) * len(getattr(layer, "kernel_size", ()))
        gain, bias = self.halves(f"{tensor}.time_gain"), self.halves(f"{tensor}.time_bias")
        if gain is not None and bias is not None:
            repeats = layer.groups if getattr(layer, "transposed", False) else 1
            now = (np.tile(self.between(one, t), repeats) for one in (gain, bias))
            g, b = (one.reshape(-1, *spatial) for one in now)
            y = g * y + b
        c = self.dense.get(f"{name}.bias")
        return y if c is None else y + c.reshape(-1, *spatial)


def convolved(layer: Any, weight: NDArray[np.float64], x: NDArray[np.float64]) -> Any:
    """A convolution [channels, ...] by its definition, an offset in the kernel at a time."""
    if layer.groups > 1:
        in_groups = np.split(x, layer.groups)
        own = np.split(weight, layer.groups)
        parts = zip(own, in_groups, strict=True)
        return np.concatenate([_convolved(layer, w, one) for w, one in parts])
    return _convolved(layer, weight, x)


def _convolved(layer: Any, weight: NDArray[np.float64], x: NDArray[np.float64]) -> Any:
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    dims = range(len(kernel))
    pads = [(layer.padding[i],) * 2 for i in dims]
    reach = [dilation[i] * (kernel[i] - 1) for i in dims]
    if not layer.transposed:
        mode = "wrap" if layer.padding_mode == "circular" else "constant"
        x = np.pad(x, [(0, 0), *pads], mode=mode)
    count = [
        x.shape[1 + i] if layer.transposed else (x.shape[1 + i] - reach[i] - 1) // stride[i] + 1
        for i in dims
    ]
    wide = [(count[i] - 1) * stride[i] + reach[i] + 1 for i in dims]
    if layer.transposed:
        wide = [wide[i] + layer.output_padding[i] for i in dims]
    channels, sizes = (weight.shape[1], wide) if layer.transposed else (weight.shape[0], count)
    out = np.zeros((channels, *sizes))
    for offset in np.ndindex(*kernel):
        starts = [offset[i] * dilation[i] for i in dims]
        place = tuple(
            slice(starts[i], starts[i] + (count[i] - 1) * stride[i] + 1, stride[i]) for i in dims
        )
        w = weight[(slice(None), slice(None), *offset)]
        if layer.transposed:
            out[(slice(None), *place)] += np.tensordot(w, x, (0, 0))
        else:
            out += np.tensordot(w, x[(slice(None), *place)], (1, 0))
    if layer.transposed:
        for i, (before, after) in enumerate(pads):
            out = out.take(range(before, wide[i] - after), axis=1 + i)
    return out


def assert_close(found: Any, expected: Any) -> None:
    """Equal but for the rounding of f32 sums."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=2e-5, atol=2e-5)


PHASES = ["baseline", "smooth", "optimize"]
SETTINGS = [
    {"bit_width": 2, "encoding": "affine", "group_size": 16},
    {"bit_width": 2, "encoding": "trellis"},
    {"bit_width": 3, "encoding": "trellis", "effort": 1, "rotation": "none"},
    {"bit_width": 2, "encoding": "coded", "rotation": "hadamard"},
    {"bit_width": 4, "encoding": "affine", "rotation": "hadamard", "activation_bits": 4},
    {"bit_width": 8, "activation_bits": 4, "layers": [{"match": "*o*1*", "activation_bits": 8}]},
    {"bit_width": 8},
]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("packed", [False, True], ids=["decoded", "packed"])
def test_layers_equal_the_model(
    made: Any, tmp_path: Path, phase: str, settings: dict[str, Any], packed: bool
) -> None:
    folder = made(phase, **settings)
    model, plain, inputs = loaded(folder, packed=packed), Plain(folder, tmp_path), inputs_for(2)
    layers = Layers()
    for t in TIMESTEPS[:: 3 if packed else 1]:
        found = model(inputs, t)
        for name, x in inputs.items():
            assert_close(found[name], plain.output(name, getattr(layers, name), x.numpy(), t))


@pytest.mark.parametrize("phase", PHASES)
def test_samples_of_a_batch_have_their_own_timesteps(made: Any, tmp_path: Path, phase: str) -> None:
    folder = made(phase, bit_width=4, rotation="hadamard")
    model, plain, layers = loaded(folder), Plain(folder, tmp_path), Layers()
    timesteps = [999.0, 750.75, 30.0]
    inputs = inputs_for(6)  # two frames a sample
    found = model(inputs, torch.tensor(timesteps))
    for name, x in inputs.items():
        parts = [
            plain.output(name, getattr(layers, name), x.numpy()[2 * i : 2 * i + 2], t)
            for i, t in enumerate(timesteps)
        ]
        assert_close(found[name], np.concatenate(parts))


def test_one_value_for_all_is_that_value_for_each(made: Any) -> None:
    model, inputs = loaded(made("optimize", bit_width=4)), inputs_for(4)
    one, each = model(inputs, 620), model(inputs, torch.tensor([620] * 4))
    assert all(torch.equal(one[name], each[name]) for name in inputs)


def test_a_batch_that_does_not_divide_is_named_by_layer(made: Any) -> None:
    model = loaded(made("optimize", bit_width=4))
    with pytest.raises(UsageError, match=r"layer linear.weight: expected a multiple of 2 samples"):
        model({"linear": torch.zeros(3, 64)}, torch.tensor([1, 900]))
    with pytest.raises(UsageError, match=r"layer linear.weight: .* shape \[64\]"):
        model({"linear": torch.zeros(64)}, torch.tensor([1, 900]))


@pytest.mark.parametrize("t", [-0.25, 1000.0, float("nan")])
def test_timesteps_outside_the_trajectory_are_refused(made: Any, t: float) -> None:
    model, inputs = loaded(made("baseline", bit_width=4)), inputs_for(1)
    with pytest.raises(UsageError, match=r"in \[0, 1000\), got"):
        model(inputs, t)
    with pytest.raises(UsageError, match=r"in \[0, 1000\), got"), thermoq.timestep(model, t):
        pass


def test_the_user_may_say_the_timestep(made: Any) -> None:
    model, inputs = loaded(made("optimize", bit_width=4)), inputs_for(4)
    expected = model(inputs, 120.125)
    with thermoq.timestep(model, 120.125):
        for handed in (None, 700, -5.0):
            found = model(inputs, handed)
            assert all(torch.equal(found[name], expected[name]) for name in inputs)
        alone = model.linear(inputs["linear"])
    assert torch.equal(alone, expected["linear"])
    with pytest.raises(UsageError, match="expected a timestep among its arguments, got none"):
        model(inputs, None)
    with pytest.raises(UsageError, match=r"layer linear.weight: expected a call of the whole"):
        model.linear(inputs["linear"])


def test_a_said_vector_is_repeated_for_the_doubled_batch(made: Any) -> None:
    model = loaded(made("optimize", bit_width=4))
    inputs = inputs_for(4)
    expected = model(inputs, torch.tensor([900, 5, 900, 5]))
    with thermoq.timestep(model, [900, 5]):
        found = model(inputs, None, torch.zeros(4, 1))  # tells how large the batch is
    assert all(torch.equal(found[name], expected[name]) for name in inputs)


def test_other_models_are_refused() -> None:
    problem = r"expected a model that thermoq\.load returned, got Linear"
    with pytest.raises(UsageError, match=problem), thermoq.timestep(nn.Linear(1, 1), 3):
        pass


def test_an_input_of_scale_zero_is_zero(made: Any, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(made("baseline", bit_width=4), folder)
    manifest = json.loads((folder / "thermoq.json").read_text())
    (path,) = models.safetensors_files(folder)

    def constant(tensors: Any) -> Any:
        name = "linear.weight.activation_scale"
        return {**tensors, name: ("F16", (GROUPS,), bytes(2 * GROUPS))}

    models.replace_tensors(path, constant)
    rehashed(folder, manifest, "linear.weight")
    model, inputs = loaded(folder), inputs_for(3)
    for t in (3, torch.tensor([3, 500, 999])):
        found = model({"linear": inputs["linear"]}, t)["linear"]
        assert torch.equal(found, model.linear.bias.expand_as(found))


def rehashed(folder: Path, manifest: dict[str, Any], name: str) -> None:
    import hashlib

    stored = models.read_tensors(folder)
    parts = (stored[f"{name}.activation_{part}"][2] for part in ("scale", "zero_point"))
    manifest["tensors"][name]["activation_sha256"] = hashlib.sha256(b"".join(parts)).hexdigest()
    text = json.dumps(manifest["tensors"], sort_keys=True, separators=(",", ":"))
    manifest["tensors_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "thermoq.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True])
def test_half_precision_is_near(made: Any, dtype: Any, packed: bool) -> None:
    folder = made("optimize", bit_width=4, rotation="hadamard")
    inputs = inputs_for(2)
    exact = loaded(folder)(inputs, 640)
    model = loaded(folder, dtype=dtype, packed=packed)
    found = model({name: x.to(dtype) for name, x in inputs.items()}, 640)
    for name, values in found.items():
        assert values.dtype == dtype
        error = (values.float() - exact[name]).norm() / exact[name].norm()
        assert error < 0.05, name


def test_packed_layers_move_and_change_dtype(made: Any) -> None:
    model = loaded(made("baseline", bit_width=4), packed=True)
    assert "weight" not in dict(model.linear.named_parameters())
    assert model.linear.weight.shape == (24, 64)
    assert model.to(torch.bfloat16).linear.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("encoding", ["coded", "trellis"])
def test_without_calibration_inputs_stay_as_they_are(tmp_path: Path, encoding: str) -> None:
    model = source(tmp_path / "model")
    thermoq.quantize(
        model, tmp_path / "out", encoding=encoding, rotation="hadamard", bit_width=2, threads=1
    )
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    dense = {k: torch.from_numpy(v) for k, v in models.float_tensors(tmp_path / "dense").items()}
    plain, inputs = Layers(), inputs_for(2)
    plain.load_state_dict(dense)
    for packed in (False, True):
        found = loaded(tmp_path / "out", packed=packed)(inputs, None)  # nothing depends on it
        expected = plain(inputs, None)
        assert all(torch.equal(found[name], expected[name]) for name in inputs)


def test_time_parameters_of_no_layer_are_refused(made: Any, tmp_path: Path) -> None:
    _, (part,) = open_quantized(made("baseline", bit_width=4))
    module = Layers()
    module.linear = nn.Embedding(24, 64)
    names = {name: name for name in part.manifest.tensors}
    assembly = Assembly(part, module, names, lambda name: torch.float32, lambda *_: None)
    with pytest.raises(
        InputError, match=r"'linear.weight': expected a linear layer or a conv.*Emb"
    ):
        assembly.run(packed=False)


def test_a_rotated_input_is_rotation_py_s(made: Any) -> None:
    from thermoq.runtime.rotation import InputRotation

    for cols in (8, 37, 96, 384):
        rotation = Rotation(11, cols)
        x = np.random.default_rng(cols).standard_normal((3, 5, cols)).astype(F32)
        expected = rotation.forward(x.reshape(-1, cols)).reshape(x.shape)
        given = torch.from_numpy(x)
        np.testing.assert_array_equal(InputRotation(rotation)(given).numpy(), expected)
        # Where there are gradients, or another device than the core's, torch does it.
        turned = InputRotation(rotation)(given.requires_grad_())
        np.testing.assert_array_equal(turned.detach().numpy(), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_may_have_two_names(made: Any, packed: bool) -> None:
    _, (part,) = open_quantized(made("optimize", bit_width=4))
    module = Layers()
    module.again = module.linear
    stored = {name: name for name in part.manifest.tensors}
    names = {**stored, "again.weight": "linear.weight", "again.bias": "linear.bias"}
    values = TimestepValues("gaussian", 1000)
    Assembly(
        part, module, names, lambda name: torch.float32, lambda a, k: values.timesteps([a[1]])
    ).run(packed=packed)
    x = inputs_for(2)["linear"]
    expected = loaded(made("optimize", bit_width=4))({"linear": x}, 5)["linear"]
    assert torch.equal(module({"again": x}, 5)["again"], expected)


def test_layers_that_share_an_input_share_its_rotation() -> None:
    from thermoq.runtime.rotation import InputRotation

    rotated, x = InputRotation(Rotation(1, 16)), torch.randn(4, 16)
    first = rotated(x)
    assert rotated(x) is first
    x += 1.0
    second = rotated(x)
    assert not torch.equal(second, first)
    torch.testing.assert_close(second, InputRotation(Rotation(1, 16))(x.clone()))
    assert rotated(x.clone()) is not second
    with torch.inference_mode():
        torch.testing.assert_close(rotated(torch.ones(2, 16)), rotated(torch.ones(2, 16)))


def test_rows_are_read_packed(made: Any) -> None:
    _, (part,) = open_quantized(made("baseline", bit_width=2))
    from thermoq.runtime.weights import Weights

    with MappedFiles() as files:
        packed = Weights(part, files).packed("odd.weight")
    whole = packed.decoded(torch.float32)
    some = np.array([8, 0, 3])
    assert torch.equal(packed.rows(some, torch.float32), whole[some])
    assert packed.nbytes < whole.nbytes / 2
