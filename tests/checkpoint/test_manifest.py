"""thermoq.json: what is written comes back, and what is wrong is refused with its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from report_examples import example_report
from thermoq.checkpoint.manifest import (
    CopiedTensor,
    Manifest,
    QuantizedTensor,
    check_checksum,
    parse_manifest,
    read_content,
    version_for,
    write_manifest,
)
from thermoq.checkpoint.trajectory_entries import (
    SCHEDULE_KINDS,
    ScheduleEntry,
    TimeGroupTable,
)
from thermoq.errors import InputError
from thermoq.report.thermodynamics_model import LayerTimeParameters
from thermoq.reporting import report_for_manifest
from thermoq.schedule import NoiseSchedule
from thermoq.weights import Scheme

AFFINE = QuantizedTensor(
    encoding="affine",
    shape=(3, 70),
    source_dtype="BF16",
    sha256="0" * 64,
    layer_class="body",
    bit_width=2,
    group_size=64,
)
CODED = AFFINE.model_copy(
    update={
        "encoding": "coded",
        "group_size": 16,
        "super_block": 48,
        "scale_bits": 4,
        "minimum_bits": 6,
    }
)
MANIFEST = Manifest(
    thermoq_version="0.1.0",
    component="unet",
    phase="baseline",
    method="minmax",
    bit_width=2,
    time_groups=TimeGroupTable(num_timesteps=1000, time_group_starts=(999.0, 499.0)),
    schedule=ScheduleEntry(kind="gaussian", num_timesteps=1000, description="cosine, T = 1000"),
    tensors={
        "a.weight": AFFINE,
        "b.weight": AFFINE.model_copy(update={"same_as": "a.weight", "sha256": None}),
        "c.weight": CODED,
        "a.bias": CopiedTensor(shape=(3,), source_dtype="F64", sha256="1" * 64, reason="1-D"),
    },
    report={"format_version": 1},
)


def written(tmp_path: Path) -> dict[str, Any]:
    write_manifest(MANIFEST, tmp_path)
    content: dict[str, Any] = json.loads((tmp_path / "thermoq.json").read_text())
    return content


def read_manifest(directory: Path) -> Manifest:
    content, path = read_content(directory), directory / "thermoq.json"
    manifest = parse_manifest(content, path)
    check_checksum(content, path)
    return manifest


def test_round_trip(tmp_path: Path) -> None:
    content = written(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    assert content["format"] == "thermoq"
    assert content["format_version"] == 1
    assert "same_as" not in content["tensors"]["a.weight"]
    assert "sha256" not in content["tensors"]["b.weight"]
    of_coded = {"super_block", "scale_bits", "minimum_bits"}
    assert of_coded & content["tensors"]["a.weight"].keys() == set()
    assert of_coded < content["tensors"]["c.weight"].keys()


ROTATED = AFFINE.model_copy(update={"rotation": "hadamard", "rotation_seed": 2**64 - 1})


def test_rotated_tensors_are_version_2(tmp_path: Path) -> None:
    assert version_for(MANIFEST.tensors) == 1
    entries = MANIFEST.tensors | {"a.weight": ROTATED}
    assert version_for(entries) == 2
    manifest = MANIFEST.model_copy(update={"tensors": entries, "format_version": 2})
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest
    content = json.loads((tmp_path / "thermoq.json").read_text())
    assert content["format_version"] == 2
    keys = {"rotation": "hadamard", "rotation_seed": 2**64 - 1}
    assert content["tensors"]["a.weight"].items() >= keys.items()
    assert not any(keys.keys() & content["tensors"][name].keys() for name in ("c.weight", "a.bias"))


def test_a_tensor_a_line(tmp_path: Path) -> None:
    content = written(tmp_path)
    lines = (tmp_path / "thermoq.json").read_text().splitlines()
    for name in MANIFEST.tensors:
        (line,) = (line for line in lines if line.startswith(f'"{name}":{{'))
        assert json.loads(f"{{{line.rstrip(',')}}}") == {name: content["tensors"][name]}
    for key in content:
        assert sum(line.startswith(f'"{key}":') for line in lines) >= 1


def test_the_checksum_of_the_entries(tmp_path: Path) -> None:
    content = written(tmp_path)
    text = json.dumps(content["tensors"], sort_keys=True, separators=(",", ":"))
    assert content["tensors_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    reordered = {key: content[key] for key in sorted(content)}
    (tmp_path / "thermoq.json").write_text(json.dumps(reordered, indent=3))
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("later", [False, True])
def test_entries_that_have_changed(tmp_path: Path, later: bool) -> None:
    content = written(tmp_path)
    content["tensors"]["a.weight"].update({"time_gain": 1} if later else {"row_dimension": 1})
    (tmp_path / "thermoq.json").write_text(json.dumps(content))
    message = r"thermoq\.json: expected tensors_sha256 [0-9a-f]{64}, got '[0-9a-f]{64}': the entr"
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_a_number_beyond_all_bounds_among_the_entries(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "thermoq.json"
    path.write_text(path.read_text().replace('"bit_width":2,', '"bit_width":2,"later":1e999,'))
    with pytest.raises(InputError, match="the entries have changed"):
        read_manifest(tmp_path)


def test_every_kind_of_schedule_is_known() -> None:
    assert get_args(get_type_hints(NoiseSchedule)["kind"]) == SCHEDULE_KINDS


def test_no_checksum_of_the_entries(tmp_path: Path) -> None:
    content = written(tmp_path)
    del content["tensors_sha256"]
    (tmp_path / "thermoq.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"expected tensors_sha256 [0-9a-f]{64}, got None"):
        read_manifest(tmp_path)


def test_many_layers_and_time_groups_stay_readable(tmp_path: Path) -> None:
    """800 layers of 1000 time groups, all with numbers of 17 digits."""
    report = example_report(num_layers=1)
    (row,) = report.layers
    values = [0.1 + 1 / (3 + i) for i in range(1000)]
    parameters = LayerTimeParameters(
        parameter_source="noise-schedule prior",
        spectral_concentration=1.0,
        scale=values,
        zero_point=[100 * value for value in values],
        scale_jump=values[1:],
        zero_point_jump=values[1:],
        unclipped_scale_jump=values[1:],
        boundary_scores=values[1:],
        smoothness_score=0.5,
        violation_count=0,
    )
    row = row.model_copy(update={"time_parameters": parameters})
    report = report.model_copy(update={"layers": [row] * 800})
    entries = {f"blocks.{i}.weight": AFFINE for i in range(800)}
    embedded = report_for_manifest(report)
    assert embedded["layers"][0]["time_parameters"].keys() == {
        *("parameter_source", "spectral_concentration", "scale", "zero_point"),
        *("smoothness_score", "violation_count"),
    }
    write_manifest(MANIFEST.model_copy(update={"tensors": entries, "report": embedded}), tmp_path)
    assert (tmp_path / "thermoq.json").stat().st_size < 40e6
    assert len(read_manifest(tmp_path).tensors) == 800


def test_what_an_entry_knows() -> None:
    assert AFFINE.num_weights == 210
    assert AFFINE.source_bytes == 420
    assert AFFINE.scheme == Scheme("affine", 2, 64)
    assert CODED.scheme == Scheme("coded", 2, 16, super_block=48, scale_bits=4, minimum_bits=6)
    assert MANIFEST.tensors["a.bias"].source_bytes == 24


def set_entry(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["tensors"]["a.weight"][key] = value

    return change


def set_coded(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["tensors"]["c.weight"][key] = value

    return change


def set_rotation(rotation: object, seed: object, **other: object) -> Callable[..., None]:
    def change(content: dict[str, Any]) -> None:
        content["format_version"] = 2
        content["tensors"]["a.weight"] |= {"rotation": rotation, "rotation_seed": seed, **other}

    return change


def set_top(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[key] = value

    return change


def time_table(*starts: object, num_timesteps: object = 1000) -> Callable[[dict[str, Any]], None]:
    table = {"num_timesteps": num_timesteps, "time_group_starts": starts}
    return set_top("time_groups", table)


def set_schedule(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["schedule"][key] = value

    return change


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        del content[key]

    return change


ENTRY = r"tensor 'a\.weight'"
WRONG = [
    (set_top("format_version", 3), r"expected format_version 1 or 2, got 3$"),
    (set_top("format_version", 0), r"expected format_version 1 or 2, got 0$"),
    (set_top("format_version", "1"), r"expected format_version 1 or 2, got '1'$"),
    (drop("format_version"), r"expected format_version 1 or 2, got None$"),
    (set_top("format", "gguf"), r"format: .*got 'gguf'$"),
    (drop("tensors"), r"tensors: Field required"),
    (set_top("tensors", []), r"tensors: "),
    (set_top("bit_width", 5), r"bit_width: .*expected 2, 3, 4 or 8, got 5$"),
    (set_top("phase", 3), r"phase: .*got 3$"),
    (time_table(), r"time_groups: expected time_group_starts from 999, got none$"),
    (time_table(998.0, 1.0), r"time_groups: expected time_group_starts from 999, got 998\.0$"),
    (time_table(999, 1.5, 1.5), r"expected time_group_starts that fall .*, got 1\.5 after 1\.5$"),
    (time_table(999, 1, 2), r"expected time_group_starts that fall .*, got 2 after 1$"),
    (time_table(999, -0.5), r"expected time_group_starts that fall .*, got -0\.5 after 999$"),
    (time_table(-1, num_timesteps=0), r"time_groups\.num_timesteps: .*got 0$"),
    (set_schedule("kind", "sigmoid"), r"schedule\.kind: expected a known schedule, got 'sigmoid'$"),
    (set_schedule("num_timesteps", 0), r"schedule\.num_timesteps: .*got 0$"),
    (set_top("schedule", "cosine"), r"schedule: .*got 'cosine'$"),
    (
        set_entry("same_as", "b.weight"),
        rf"{ENTRY}: .*expected one of sha256 and same_as, got both$",
    ),
    (set_entry("sha256", None), rf"{ENTRY}: .*expected one of sha256 and same_as, got neither$"),
    (set_top("time_groups", {"num_timesteps": 1}), r"time_groups\.time_group_starts"),
    (
        set_entry("encoding", "lattice"),
        rf"{ENTRY}: expected a known encoding, got 'lattice'$",
    ),
    (set_entry("source_dtype", "F64"), rf"{ENTRY}: .*expected a source_dtype of F32, F16, BF16"),
    (set_entry("sha256", "0" * 63), rf"{ENTRY}: .*sha256.*got '0+'$"),
    (set_entry("sha256", "G" * 64), rf"{ENTRY}: .*sha256.*got 'G+'$"),
    (set_entry("group_size", 8 * 10**30), rf"{ENTRY}: .*group_size.*got 80+$"),
    (set_entry("shape", [3, -1]), rf"{ENTRY}: affine\.shape\.1: .*got -1$"),
    (set_entry("shape", "3,70"), rf"{ENTRY}: affine\.shape"),
    (set_entry("source_dtype", "F128"), rf"{ENTRY}: .*expected a safetensors dtype, got 'F128'$"),
    (set_entry("group_size", 12), rf"{ENTRY}: .*group_size.*got 12$"),
    (set_entry("group_size", 0), rf"{ENTRY}: .*group_size.*got 0$"),
    (set_entry("bit_width", 5), rf"{ENTRY}: .*expected 2, 3, 4 or 8, got 5$"),
    (set_entry("bit_width", 8), rf"{ENTRY}: .*expected 8 bits with q8, 2 or 4 with affine"),
    (set_entry("encoding", "q8"), rf"{ENTRY}: .*expected 8 bits with q8, 2 or 4 with affine"),
    (
        set_entry("super_block", 64),
        rf"{ENTRY}: .*expected none as super_block with affine, got 64$",
    ),
    (set_entry("scale_bits", 4), rf"{ENTRY}: .*expected none as scale_bits with affine, got 4$"),
    (
        set_entry("encoding", "coded"),
        rf"{ENTRY}: .*expected a number as super_block with coded, got None$",
    ),
    (
        set_coded("encoding", "affine"),
        r"'c\.weight': .*expected none as super_block with affine, got 48$",
    ),
    (set_coded("bit_width", 8), r"'c\.weight': .*expected 8 bits with q8, 2 or 4 with affine"),
    (
        set_coded("minimum_bits", None),
        r"'c\.weight': .*expected a number as minimum_bits with coded, got None$",
    ),
    (set_coded("scale_bits", 9), r"'c\.weight': .*scale_bits.*got 9$"),
    (set_coded("minimum_bits", 0), r"'c\.weight': .*minimum_bits.*got 0$"),
    (
        set_coded("super_block", 40),
        r"'c\.weight': .*expected a multiple of group_size 16 up to 4096 as super_block, got 40$",
    ),
    (
        set_coded("super_block", 4112),
        r"'c\.weight': .*a multiple of group_size 16 up to 4096 as super_block, got 4112$",
    ),
    (set_coded("super_block", 0), r"'c\.weight': .*super_block.*got 0$"),
    (
        set_coded("group_size", 40),
        r"'c\.weight': .*expected a multiple of group_size 40 up to 10240 as super_block, got 48$",
    ),
    (set_entry("row_dimension", 2), rf"{ENTRY}: .*row_dimension.*got 2$"),
    (set_entry("shape", []), rf"{ENTRY}: .*expected a dimension of the shape as row_dimension"),
    (set_entry("layer_class", "tail"), rf"{ENTRY}: .*layer_class.*got 'tail'$"),
    (
        set_rotation("hadamard", None),
        rf"{ENTRY}: .*expected rotation and rotation_seed together, got one of them$",
    ),
    (
        set_rotation(None, 0),
        rf"{ENTRY}: .*expected rotation and rotation_seed together, got one of them$",
    ),
    (
        lambda content: (set_rotation("hadamard", 0)(content), content.update(format_version=1)),
        r"manifest: expected format_version 2 with rotated tensors, got 1$",
    ),
    (set_rotation("random", 0), rf"{ENTRY}: affine\.rotation: .*hadamard.*got 'random'$"),
    (set_rotation("hadamard", -1), rf"{ENTRY}: .*rotation_seed.*got -1$"),
    (set_rotation("hadamard", 2**64), rf"{ENTRY}: .*rotation_seed.*got {2**64}$"),
    (
        set_rotation("hadamard", 0, shape=[3, 70, 1, 1]),
        rf"{ENTRY}: .*expected a matrix with rotation",
    ),
    (
        set_rotation("hadamard", 0, row_dimension=1),
        rf"{ENTRY}: .*expected a matrix with rotation",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = written(tmp_path)
    change(content)
    path = tmp_path / "thermoq.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_q8_has_its_own_group_size() -> None:
    entry = AFFINE.model_dump() | {"encoding": "q8", "bit_width": 8}
    with pytest.raises(ValueError, match="expected groups of 32 with q8"):
        QuantizedTensor.model_validate(entry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("[]", "expected a JSON object"),
        ('{"format_version": 1, "format_version": 1}', "the key 'format_version' twice"),
        ('{"format_version": NaN}', "the constant NaN"),
        ("\ufeff{}", "expected JSON"),
    ],
)
def test_text_that_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "thermoq.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    message = r"expected a checkpoint quantized by thermoq, got no thermoq\.json$"
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)
