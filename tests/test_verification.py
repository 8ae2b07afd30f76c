"""`verify`: finds what is in order in order, and names what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from shutil import copytree
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from conftest import Run
from safetensors_files import write_json, write_safetensors
from thermoq.checkpoint import stored_tensors
from thermoq.checkpoint.manifest import tensors_checksum
from thermoq.errors import InputError

Quantized = Callable[..., Run]


@pytest.fixture
def copied(quantized: Quantized, tmp_path: Path) -> Path:
    """A DiT in bf16 quantized with minmax, to be damaged."""
    return Path(copytree(quantized("dit", "BF16", "minmax").output, tmp_path / "quantized"))


@pytest.fixture
def coded(quantized: Quantized, tmp_path: Path) -> Path:
    """A DiT in bf16 with coded matrices, to be damaged."""
    output = quantized("dit", "BF16", encoding="coded").output
    return Path(copytree(output, tmp_path / "coded"))


def weights_file(root: Path) -> Path:
    return root / "transformer/diffusion_pytorch_model.safetensors"


def manifest_of(root: Path) -> Path:
    return root / "transformer/thermoq.json"


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and its checksum with it."""
    content = json.loads(manifest_of(root).read_text())
    change(content)
    content["tensors_sha256"] = tensors_checksum(content["tensors"])
    manifest_of(root).write_text(json.dumps(content))


def put(root: Path, part: str, values: bytes, position: int = 0, path: Path | None = None) -> None:
    """Write bytes into a part, and the checksum that fits them into the manifest."""
    path = path or weights_file(root)
    stored = stored_tensors(path)
    tensor = stored[part]
    data = bytearray(path.read_bytes())
    data[tensor.offset + position : tensor.offset + position + len(values)] = values
    path.write_bytes(data)
    name = part.rpartition(".")[0]
    parts = [stored[f"{name}.{suffix}"] for suffix in SUFFIXES if f"{name}.{suffix}" in stored]
    digest = sha256(b"".join(bytes(data[p.offset : p.offset + p.nbytes]) for p in parts))

    def change(content: dict[str, Any]) -> None:
        content["tensors"][name]["sha256"] = digest.hexdigest()

    edit_manifest(root, change)


CODED_SUFFIXES = ("super_scale", "super_minimum", "scale_codes", "minimum_codes", "codes")
SUFFIXES = ("scale", "minimum", *CODED_SUFFIXES)  # the checksum's order
AFFINE = "transformer_blocks.1.attn1.to_q.weight"
CODED = AFFINE  # in the other fixture
Q8 = "pos_embed.proj.weight"


def test_what_was_written_is_in_order(run: Run) -> None:
    found = thermoq.verify(run.output)
    source = models.read_tensors(run.source / run.component)
    assert found.num_tensors == len(source)
    assert found.num_quantized == len(run.report.layers)
    assert found.components == (run.component,)
    stored = models.read_tensors(run.output / run.component)
    assert found.nbytes == sum(len(data) for _, _, data in stored.values())


@pytest.fixture
def rotated(quantized: Quantized, tmp_path: Path) -> Path:
    """A DiT in bf16 with rotated coded matrices."""
    source = quantized("dit", "BF16").source
    thermoq.quantize(source, tmp_path / "rotated", encoding="coded", rotation="hadamard")
    return tmp_path / "rotated"


def test_rotated_tensors_are_in_order(rotated: Path) -> None:
    entries = json.loads(manifest_of(rotated).read_text())["tensors"]
    kinds = {name for name, entry in entries.items() if entry.get("rotation") == "hadamard"}
    assert CODED in kinds
    assert Q8 not in kinds
    assert thermoq.verify(rotated).num_quantized > len(kinds)


def test_a_changed_rotation_is_found(rotated: Path) -> None:
    """No stored byte tells of it: the checksum of the entries does."""
    content = json.loads(manifest_of(rotated).read_text())
    content["tensors"][CODED]["rotation_seed"] = 1
    manifest_of(rotated).write_text(json.dumps(content))
    with pytest.raises(InputError, match="the entries have changed"):
        thermoq.verify(rotated)


def test_a_repeated_tensor_has_the_rotation_of_the_other(rotated: Path) -> None:
    entries = json.loads(manifest_of(rotated).read_text())["tensors"]
    repeated = next(name for name, entry in entries.items() if "same_as" in entry)

    def change(content: dict[str, Any]) -> None:
        content["tensors"][repeated] |= {"rotation": "hadamard", "rotation_seed": 0}

    edit_manifest(rotated, change)
    with pytest.raises(InputError, match="expected the shape and encoding of"):
        thermoq.verify(rotated)


def test_progress(quantized: Quantized) -> None:
    seen: list[Any] = []

    class Recording:
        def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
            seen.append((task, total_tensors, total_bytes))

        def advance(self, tensor: str, nbytes: int) -> None:
            seen.append(nbytes)

    found = thermoq.verify(quantized("dit", "F16").output, progress=Recording())
    assert seen[0] == ("verify", found.num_tensors, found.nbytes)
    assert sum(seen[1:]) == found.nbytes


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize(
    "part",
    [
        *(f"{AFFINE}.{suffix}" for suffix in ("scale", "minimum", "codes")),
        f"{Q8}.scale",
        f"{Q8}.codes",
        "proj_out_2.bias",
        "pos_embed.pos_embed",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight.codes",
    ],
)
def test_a_flipped_bit_is_found_and_its_tensor_named(copied: Path, part: str, where: str) -> None:
    path = weights_file(copied)
    tensor = stored_tensors(path)[part]
    position = {"first": 0, "middle": tensor.nbytes // 2, "last": tensor.nbytes - 1}[where]
    data = bytearray(path.read_bytes())
    data[tensor.offset + position] ^= 1
    path.write_bytes(data)
    head, _, suffix = part.rpartition(".")
    name = head if suffix in SUFFIXES else part
    message = (
        rf"tensor '{name}': expected the checksum [0-9a-f]{{64}}, got [0-9a-f]{{64}}: the file"
    )
    with pytest.raises(InputError, match=message) as caught:
        thermoq.verify(copied)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("encoding", ["coded", "trellis"])
def test_a_flipped_bit_in_any_shard(quantized: Quantized, tmp_path: Path, encoding: str) -> None:
    source = quantized("dream", "F32").source
    thermoq.quantize(source, tmp_path / "out", encoding=encoding, max_shard_size="20KB")
    for path in models.safetensors_files(tmp_path / "out"):
        original = path.read_bytes()
        # Not the highest, which a stream of trellis has to spare.
        path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(InputError, match="expected the checksum") as caught:
            thermoq.verify(tmp_path / "out")
        assert str(caught.value).startswith(f"{path}: ")
        path.write_bytes(original)
    thermoq.verify(tmp_path / "out")


@pytest.mark.parametrize("removed", [f"{AFFINE}.codes", f"{Q8}.scale", "proj_out_2.bias"])
def test_a_missing_tensor(copied: Path, removed: str) -> None:
    models.replace_tensors(
        weights_file(copied), lambda tensors: {n: t for n, t in tensors.items() if n != removed}
    )
    with pytest.raises(InputError, match=rf"tensor '{removed}': missing from the safetensors"):
        thermoq.verify(copied)


def test_a_tensor_that_nobody_knows(copied: Path) -> None:
    stray = ("U8", (1,), b"\0")
    models.replace_tensors(weights_file(copied), lambda tensors: {**tensors, "stray": stray})
    with pytest.raises(InputError, match=r"'stray': expected an entry in thermoq\.json, got none"):
        thermoq.verify(copied)


def test_additions_of_a_later_version_are_passed_over(copied: Path) -> None:
    addition = ("F16", (1,), b"\0\0")
    names = (f"{AFFINE}.activation_scale", f"{AFFINE}.time_gain", "thermoq.output.time_gain")
    models.replace_tensors(
        weights_file(copied), lambda tensors: {**tensors, **dict.fromkeys(names, addition)}
    )
    assert thermoq.verify(copied).num_quantized > 0


def test_another_shape_and_another_dtype(copied: Path) -> None:
    def reshaped(tensors: models.Tensors) -> models.Tensors:
        dtype, (rows, cols), data = tensors[f"{AFFINE}.codes"]
        return {**tensors, f"{AFFINE}.codes": (dtype, (cols, rows), data)}

    original = weights_file(copied).read_bytes()
    models.replace_tensors(weights_file(copied), reshaped)
    message = rf"'{AFFINE}\.codes': expected U8 \[40, 10\], got U8 \[10, 40\]$"
    with pytest.raises(InputError, match=message):
        thermoq.verify(copied)
    weights_file(copied).write_bytes(original)

    def retyped(tensors: models.Tensors) -> models.Tensors:
        _, shape, data = tensors[f"{Q8}.scale"]
        return {**tensors, f"{Q8}.scale": ("BF16", shape, data)}

    models.replace_tensors(weights_file(copied), retyped)
    with pytest.raises(InputError, match=rf"'{Q8}\.scale': expected F16 .*, got BF16"):
        thermoq.verify(copied)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", [f"{AFFINE}.scale", f"{AFFINE}.minimum", f"{Q8}.scale"])
def test_parameters_that_are_not_finite_though_the_checksum_fits(
    copied: Path, part: str, value: float
) -> None:
    put(copied, part, np.float16(value).tobytes(), position=2)
    with pytest.raises(InputError, match=rf"'{part}': expected finite values, got 1 that are not"):
        thermoq.verify(copied)


def test_a_negative_scale_though_the_checksum_fits(copied: Path) -> None:
    put(copied, f"{AFFINE}.scale", np.float16(-0.5).tobytes())
    with pytest.raises(InputError, match=rf"'{AFFINE}\.scale': expected scales >= 0, got -0\.5"):
        thermoq.verify(copied)


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("suffix", CODED_SUFFIXES)
def test_a_flipped_bit_in_any_part_of_a_coded_tensor(coded: Path, suffix: str, where: str) -> None:
    path = weights_file(coded)
    tensor = stored_tensors(path)[f"{CODED}.{suffix}"]
    data = bytearray(path.read_bytes())
    data[tensor.offset + (0 if where == "first" else tensor.nbytes - 1)] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"tensor '{CODED}': expected the checksum"):
        thermoq.verify(coded)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["super_scale", "super_minimum"])
def test_super_blocks_that_are_not_finite_though_the_checksum_fits(
    coded: Path, suffix: str, value: float
) -> None:
    part = f"{CODED}.{suffix}"
    put(coded, part, np.float16(value).tobytes(), position=2)
    with pytest.raises(InputError, match=rf"'{part}': expected finite values, got 1 that are not"):
        thermoq.verify(coded)


def test_a_super_scale_is_not_negative_and_a_super_minimum_may_be(coded: Path) -> None:
    put(coded, f"{CODED}.super_minimum", np.float16(-0.5).tobytes())
    thermoq.verify(coded)
    put(coded, f"{CODED}.super_scale", np.float16(-0.5).tobytes())
    message = rf"'{CODED}\.super_scale': expected scales >= 0, got -0\.5"
    with pytest.raises(InputError, match=message):
        thermoq.verify(coded)


def test_a_code_out_of_range_though_the_checksum_fits(copied: Path) -> None:
    put(copied, f"{Q8}.codes", b"\x80", position=7)
    with pytest.raises(InputError, match=rf"'{Q8}\.codes': expected codes in \[-127, 127\]"):
        thermoq.verify(copied)


def set_entry(name: str, key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["tensors"][name][key] = value

    return change


REPEATED = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry(AFFINE, "encoding", "lattice"), "expected a known encoding, got 'lattice'"),
        (lambda c: c.update(format_version=3), r"expected format_version 1 or 2, got 3"),
        (lambda c: c.update(format_version=2), r"config\.format_version: expected 2, got 1"),
        (set_entry(AFFINE, "bit_width", 4), rf"'{AFFINE}\.codes': expected U8 \[40, 20\], got"),
        (set_entry(AFFINE, "group_size", 32), rf"'{AFFINE}\.scale': expected F16 \[40, 2\], got"),
        (set_entry(AFFINE, "shape", [40, 41]), rf"'{AFFINE}\.codes': expected U8 \[40, 11\], got"),
        (set_entry("proj_out_2.bias", "shape", [17]), r"'proj_out_2\.bias': expected BF16 \[17\]"),
        (set_entry("proj_out_2.bias", "sha256", None), "sha256 and same_as, got neither"),
        (set_entry("proj_out_2.bias", "sha256", "x"), "sha256: String should match pattern"),
        (set_entry(REPEATED, "sha256", "0" * 64), "sha256 and same_as, got both"),
        (lambda c: c.update(component="unet"), "component: expected 'transformer', got 'unet'"),
        (lambda c: c.update(component=""), "component: expected 'transformer', got ''"),
        (lambda c: c["schedule"].update(kind="x"), "expected a known schedule, got 'x'"),
        (set_entry(REPEATED, "same_as", "nothing"), "expected same_as to name a stored tensor"),
        (set_entry(REPEATED, "same_as", REPEATED), "expected same_as to name a stored tensor"),
        (set_entry(REPEATED, "same_as", AFFINE), f"expected the shape and encoding of '{AFFINE}'"),
        (set_entry(REPEATED, "source_dtype", "F32"), "expected the shape and encoding of"),
        (lambda c: c["tensors"].pop(AFFINE), rf"'{AFFINE}\.\w+': expected an entry in thermoq"),
    ],
)
def test_a_manifest_that_disagrees_with_the_files(
    copied: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_manifest(copied, change)
    with pytest.raises(InputError, match=message):
        thermoq.verify(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry(CODED, "scale_bits", 6), rf"'{CODED}\.scale_codes': expected U8 \[40, 3\], got"),
        (set_entry(CODED, "minimum_bits", 8),
         rf"'{CODED}\.minimum_codes': expected U8 \[40, 3\], got"),
        (set_entry(CODED, "super_block", 16),
         rf"'{CODED}\.super_scale': expected F16 \[40, 3\], got"),
        (set_entry(CODED, "super_block", 24), "expected a multiple of group_size 16 up to 4096"),
        (set_entry(CODED, "super_block", None), "expected a number as super_block with coded"),
        (set_entry(CODED, "encoding", "affine"), "expected none as super_block with affine"),
        (set_entry(CODED, "encoding", "q8"), "expected 8 bits with q8"),
        (set_entry(Q8, "scale_bits", 4), "expected none as scale_bits with q8, got 4"),
        (set_entry(REPEATED, "same_as", CODED), f"expected the shape and encoding of '{CODED}'"),
    ],
)  # fmt: skip
def test_a_manifest_that_disagrees_with_coded_tensors(
    coded: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    thermoq.verify(coded)
    edit_manifest(coded, change)
    with pytest.raises(InputError, match=message):
        thermoq.verify(coded)


@pytest.mark.parametrize("key", ["row_dimension", "source_dtype", "layer_class"])
def test_a_change_that_only_the_checksum_of_the_manifest_tells(copied: Path, key: str) -> None:
    square = "transformer_blocks.0.attn1.to_q.weight"
    content = json.loads(manifest_of(copied).read_text())
    shape = content["tensors"][square]["shape"]
    assert shape[0] == shape[1]
    changed = {"row_dimension": 1, "source_dtype": "F32", "layer_class": "sensitive"}
    content["tensors"][square][key] = changed[key]
    manifest_of(copied).write_text(json.dumps(content))
    for command in (thermoq.verify, thermoq.inspect):
        with pytest.raises(InputError, match=r"expected tensors_sha256 .*entries have changed"):
            command(copied)
    with pytest.raises(InputError, match=r"thermoq\.json: expected tensors_sha256"):
        thermoq.export(copied, copied.parent / "dense")
    assert not (copied.parent / "dense").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quant_method", "gptq", r"quant_method: expected 'thermoq', got 'gptq'$"),
        ("format_version", 2, r"format_version: expected 1, got 2$"),
        ("bit_width", 4, r"bit_width: expected 2, got 4$"),
        ("bit_width", None, r"bit_width: expected 2, got None$"),
    ],
)
def test_a_config_that_disagrees_with_the_manifest(
    copied: Path, key: str, value: object, message: str
) -> None:
    path = copied / "transformer/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"quantization_config\.{message}") as caught:
        thermoq.verify(copied)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_config_without_the_entry(copied: Path) -> None:
    path = copied / "transformer/config.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"config\.json: expected a quantization_config, got None"):
        thermoq.verify(copied)
    path.unlink()
    with pytest.raises(InputError, match=r"config\.json: expected a quantization_config, got None"):
        thermoq.verify(copied)


def test_a_component_by_itself(copied: Path) -> None:
    assert thermoq.verify(copied / "transformer").components == ("",)


def test_spare_bits_though_the_checksum_fits(tmp_path: Path) -> None:
    maker = models.Maker("BF16")
    maker.add("odd.weight", 6, 43)  # 86 bits: the last byte of a row has two to spare
    write_safetensors(tmp_path / "in/transformer/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/transformer/config.json", {})
    root = tmp_path / "out"
    thermoq.baseline(tmp_path / "in", root)
    thermoq.verify(root)
    path = root / "transformer/model.safetensors"
    codes = stored_tensors(path)["odd.weight.codes"]
    assert codes.shape == (6, 11)
    position = 3 * 11 + 10
    byte = path.read_bytes()[codes.offset + position] | 0x40
    put(root, "odd.weight.codes", bytes([byte]), position, path)
    message = r"'odd\.weight\.codes': expected 0 in the bits after the last code of row 3, got 0b1$"
    with pytest.raises(InputError, match=message):
        thermoq.verify(root)


@pytest.mark.parametrize(
    ("part", "row_bytes"), [("scale_codes", 2), ("minimum_codes", 3), ("codes", 11)]
)
def test_spare_bits_of_every_packed_part(tmp_path: Path, part: str, row_bytes: int) -> None:
    """Three groups of 16: 9 bits of scales, 21 of minima, and 86 of codes in a row."""
    maker = models.Maker("BF16")
    maker.add("odd.weight", 6, 43)
    write_safetensors(tmp_path / "in/transformer/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/transformer/config.json", {})
    root = tmp_path / "out"
    thermoq.quantize(tmp_path / "in", root, encoding="coded", scale_bits=3, minimum_bits=7)
    thermoq.verify(root)
    path = root / "transformer/model.safetensors"
    codes = stored_tensors(path)[f"odd.weight.{part}"]
    assert codes.shape == (6, row_bytes)
    position = 3 * row_bytes + row_bytes - 1
    byte = path.read_bytes()[codes.offset + position] | 0x80
    put(root, f"odd.weight.{part}", bytes([byte]), position, path)
    message = (
        rf"'odd\.weight\.{part}': expected 0 in the bits after the last code of row 3, got 0b1"
    )
    with pytest.raises(InputError, match=message):
        thermoq.verify(root)


VALUES: tuple[Any, ...] = (
    *(None, 0, 1, -1, 2, 8, 8 * 10**30, 2**63, 1e308, True, "", "q8", "affine", "coded", "copied"),
    *("trellis", "BF16", "F4", "one.weight", "\0", [], {}, [0], [2**40, 2**40], [1] * 70),
)


def change_something(value: Any, random: Random) -> None:
    """Change, add or remove one thing somewhere in a JSON value."""
    if not value:
        return
    key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
    if isinstance(value[key], (dict, list)) and random.random() < 0.7:
        change_something(value[key], random)
    elif random.random() < 0.2:
        del value[key]
    elif isinstance(value, dict) and random.random() < 0.2:
        value[random.choice(("extra", "same_as", "reason"))] = random.choice(VALUES)
    else:
        value[key] = random.choice(VALUES)


@pytest.mark.parametrize("encoding", ["coded", "trellis"])
def test_random_changes_of_the_manifest_are_errors_of_one_line(
    quantized: Quantized, tmp_path: Path, encoding: str
) -> None:
    output = quantized("oddities", "BF16", encoding=encoding).output
    root = Path(copytree(output, tmp_path / "quantized"))
    content = json.loads((root / "thermoq.json").read_text())
    content["report"] = {}
    original = json.dumps(content)
    random = Random(0)
    refused: list[str] = []
    for _ in range(300):
        changed = json.loads(original)
        change_something(changed if random.random() < 0.1 else changed["tensors"], random)
        if "tensors" in changed:
            changed["tensors_sha256"] = tensors_checksum(changed["tensors"])
        (root / "thermoq.json").write_text(json.dumps(changed))
        try:
            thermoq.inspect(root)
            thermoq.export(root, tmp_path / "dense", dtype="float32", overwrite=True)
            thermoq.verify(root)
        except thermoq.InputError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all(message.isprintable() for message in refused)


def test_files_cut_short_or_gone(copied: Path) -> None:
    path = weights_file(copied)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="truncated: expected"):
        thermoq.verify(copied)
    path.unlink()
    with pytest.raises(InputError, match="expected safetensors weights, got none"):
        thermoq.verify(copied)
    path.write_bytes(data)
    manifest_of(copied).unlink()
    with pytest.raises(InputError, match=r"got no thermoq\.json"):
        thermoq.verify(copied)


def test_what_is_not_quantized(quantized: Quantized, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint quantized by thermoq"):
        thermoq.verify(quantized("dit", "F32").source)
    with pytest.raises(InputError, match="got no such directory"):
        thermoq.verify(tmp_path / "missing")
