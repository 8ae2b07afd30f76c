"""ggml itself, in the shared library that llama-cpp-python installs, reads the files."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import pytest
import thermoq
from conftest import Run
from gguf_files import dense, long_names, wide
from numpy.typing import NDArray
from safetensors_files import write_safetensors

pytest.importorskip("gguf")

Quantized = Callable[..., Run]

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Parameters(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Read:
    """A tensor as ggml sees it; `values` is None for integers."""

    type: str
    values: NDArray[np.float32] | None


class Ggml:
    """The few functions that are used here."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        handle = ctypes.c_void_p
        for name, result, arguments in (
            ("gguf_init_from_file", handle, [ctypes.c_char_p, _Parameters]),
            ("gguf_free", None, [handle]),
            ("gguf_get_n_tensors", ctypes.c_int64, [handle]),
            ("gguf_get_tensor_name", ctypes.c_char_p, [handle, ctypes.c_int64]),
            ("gguf_get_tensor_type", ctypes.c_int, [handle, ctypes.c_int64]),
            ("gguf_get_tensor_size", ctypes.c_size_t, [handle, ctypes.c_int64]),
            ("gguf_get_tensor_offset", ctypes.c_size_t, [handle, ctypes.c_int64]),
            ("gguf_get_data_offset", ctypes.c_size_t, [handle]),
            ("ggml_get_type_traits", ctypes.POINTER(_Traits), [ctypes.c_int]),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def read(self, path: Path) -> dict[str, Read] | None:
        """Every tensor of a GGUF file, None if ggml refuses the file."""
        library, data = self._library, path.read_bytes()
        handle = library.gguf_init_from_file(str(path).encode(), _Parameters(True, None))
        if not handle:
            return None
        tensors = {}
        for i in range(library.gguf_get_n_tensors(handle)):
            start = library.gguf_get_data_offset(handle) + library.gguf_get_tensor_offset(handle, i)
            stored = data[start : start + library.gguf_get_tensor_size(handle, i)]
            traits = library.ggml_get_type_traits(library.gguf_get_tensor_type(handle, i)).contents
            name = library.gguf_get_tensor_name(handle, i).decode()
            kind = traits.type_name.decode()
            tensors[name] = Read(kind, self._floats(traits, kind, stored))
        library.gguf_free(handle)
        return tensors

    def _floats(self, traits: _Traits, kind: str, stored: bytes) -> NDArray[np.float32] | None:
        if kind == "f32":
            return np.frombuffer(stored, "<f4")
        if not traits.to_float or not stored:
            return None
        values = np.empty(len(stored) // traits.type_size * traits.blck_size, np.float32)
        traits.to_float(stored, values.ctypes.data, values.size)
        return values


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    package = importlib.util.find_spec("llama_cpp")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llama-cpp-python is not installed")
    folder = Path(package.submodule_search_locations[0]) / "lib"
    return Ggml(next(folder.glob("libggml-base.*")))


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize(
    ("command", "encoding"), [(thermoq.quantize, "coded"), (thermoq.baseline, "affine")]
)
def test_it_decodes_our_weights_bit_for_bit(
    ggml: Ggml, tmp_path: Path, command: Callable[..., object], encoding: str, bit_width: int
) -> None:
    source = wide(tmp_path / "in", "BF16")
    models.replace_tensors(
        source / "diffusion_pytorch_model.safetensors",
        lambda tensors: {k: v for k, v in tensors.items() if len(v[1]) <= 4},
    )
    settings = {"bit_width": bit_width, "encoding": None if bit_width == 8 else encoding}
    command(source, tmp_path / "out", **settings)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    expected = dense(tmp_path / "out", "", tmp_path / "dense")
    found = ggml.read(written.path)
    assert found is not None
    assert found.keys() == expected.keys()
    assert {row.type.lower() for row in written.tensors} == {
        one.type.lower() for one in found.values()
    }
    for name, tensor in found.items():
        assert tensor.values is not None
        truth = expected[name].reshape(-1)
        assert np.array_equal(tensor.values.view("u4"), truth.view("u4")), name


def test_the_real_model(ggml: Ggml, quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("minilm", "F32", encoding="coded")
    written = thermoq.export(run.output, tmp_path / "m.gguf", format="gguf")
    expected = dense(run.output, "", tmp_path / "dense")
    found = ggml.read(written.path)
    assert found is not None
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if tensor.values is not None:
            assert np.array_equal(tensor.values, expected[name].reshape(-1)), name


def test_scalars_and_empty_tensors(ggml: Ggml, tmp_path: Path) -> None:
    maker = models.Maker("F32")
    maker.add("scalar")
    maker.add("empty", 0, 3)
    maker.add("after", 5)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    maker.linear("layer", 8, 32)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    found = ggml.read(written.path)
    assert found is not None
    expected = dense(tmp_path / "out", "", tmp_path / "dense")
    for name in ("scalar", "empty", "after", "layer.weight"):
        values = found[name].values
        assert values is not None
        assert np.array_equal(values, expected[name].reshape(-1))


def test_it_refuses_what_the_document_says(
    ggml: Ggml, quantized: Quantized, tmp_path: Path
) -> None:
    """Names of 64 bytes and tensors of five dimensions."""
    output, _ = long_names(tmp_path)
    for names, opens in (("checkpoint", True), ("full", False)):
        target = tmp_path / f"{names}.gguf"
        thermoq.export(output, target, format="gguf", names=names)
        assert (ggml.read(target) is not None) == opens
    run = quantized("oddities", "F32", encoding="coded")
    thermoq.export(run.output, tmp_path / "five.gguf", format="gguf")
    assert ggml.read(tmp_path / "five.gguf") is None
