"""End to end: size budgets and the plans that are told without being carried out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import thermoq
from conftest import Run
from safetensors_files import write_json, write_safetensors
from thermoq.config import QuantizationConfig
from thermoq.errors import InputError, UsageError

Quantized = Callable[..., Run]

QUERY = "transformer_blocks.1.attn1.to_q.weight"


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def many_blocks(folder: Path) -> Path:
    """A model whose tensors are many and small against the whole."""
    return models.dit(folder, "BF16", blocks=12)


def assert_told(plan: thermoq.QuantizationPlan, report: thermoq.Report) -> None:
    """Whatever a plan and a report both say is the same; small tensors' errors are exact."""
    sizes = report.sizes
    assert plan.model_bytes == sizes.model_bytes
    assert plan.header_bytes == sizes.header_bytes
    assert plan.quantized_bytes == sizes.quantized_bytes
    assert plan.copied_bytes == sizes.copied_bytes
    assert plan.source_bytes == sizes.source_bytes
    assert plan.num_weights == sizes.num_weights
    assert plan.num_quantized_weights == sizes.num_quantized_weights
    assert plan.bits_per_weight_quantized == sizes.bits_per_weight_quantized
    assert plan.bits_per_weight_component == sizes.bits_per_weight_component
    assert plan.compression_ratio == report.compression_ratio
    assert plan.method == report.method
    assert plan.prediction_note is None
    assert plan.relative_squared_error == pytest.approx(report.relative_squared_error, rel=1e-6)
    rows = {(row.component, row.name): row for row in report.layers}
    for tensor in plan.tensors:
        row = rows.pop((tensor.component, tensor.name), None)
        assert (row is None) == (tensor.encoding is None)
        if row is None:
            continue
        for key in ("encoding", "bit_width", "group_size", "super_block", "scale_bits", "rotation",
                    "same_as"):  # fmt: skip
            assert getattr(tensor, key) == getattr(row, key), tensor.name
        assert (tensor.minimum_bits, tensor.stored_bytes) == (row.minimum_bits, row.stored_bytes)
        # Of the rotated matrix, where the report's is of the one that was turned back in f32.
        close = pytest.approx(row.relative_squared_error, rel=1e-6, abs=1e-11 * bool(row.rotation))
        assert tensor.relative_squared_error == close
    assert rows == {}
    for told, got in zip(plan.layer_classes, report.layer_classes, strict=True):
        for key in ("layer_class", "num_tensors", "num_weights", "source_bytes", "stored_bytes"):
            assert getattr(told, key) == getattr(got, key)
        assert told.bits_per_weight == got.bits_per_weight
        assert (told.relative_squared_error is None) == (got.relative_squared_error is None)
        of_schemes = [(one.num_tensors, one.stored_bytes) for one in told.schemes]
        if told.layer_class == "copied":
            assert of_schemes == []
        else:
            assert sum(count for count, _ in of_schemes) == got.num_tensors
            assert sum(nbytes for _, nbytes in of_schemes) == got.stored_bytes


# A plan tells what is then written.


@pytest.mark.parametrize("name", ["unet", "dit", "dream", "oddities"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bit_width": 4, "method": "minmax"},
        {"target_bits": 5.5},
        {"target_bits": 5.5, "encoding": "affine", "max_shard_size": "20KB"},
        {"encoding": "affine", "rotation": "hadamard"},
        {"target_bits": 5.5, "rotation": "hadamard"},
        {"encoding": "coded"},
        {"target_bits": 5.5, "encoding": "coded"},
        {"target_bits": 5.5, "rotation": "none"},
    ],
    ids=str,
)
def test_a_plan_tells_what_is_written(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    source = models.MAKERS[name](tmp_path / name, "BF16")
    before = models.tree(tmp_path)
    plan = thermoq.plan_quantization(source, **settings)
    assert models.tree(tmp_path) == before
    report = thermoq.quantize(source, tmp_path / "out", **settings)
    assert_told(plan, report)
    (part,) = {row.component for row in report.layers}
    assert plan.model_bytes == file_bytes(tmp_path / "out" / part)
    assert [line for line in report.warnings if "schedule" not in line] == plan.warnings
    thermoq.verify(tmp_path / "out")


def test_a_plan_of_several_components(tmp_path: Path) -> None:
    source = models.dit(tmp_path / "dit", "F16")
    settings: dict[str, Any] = {"components": ["vae"], "max_size": "100KB"}
    plan = thermoq.plan_quantization(source, **settings)
    report = thermoq.quantize(source, tmp_path / "out", **settings)
    assert_told(plan, report)
    assert {tensor.component for tensor in plan.tensors} == {"transformer", "vae"}
    assert 99_000 <= file_bytes(tmp_path / "out") <= 100_000


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "in/model.safetensors", {})
    write_json(tmp_path / "in/config.json", {})
    budgets: list[dict[str, Any]] = [{}, {"target_bits": 2.0}, {"max_size": "1KB"}]
    for settings in budgets:
        plan = thermoq.plan_quantization(tmp_path / "in", **settings)
        report = thermoq.quantize(tmp_path / "in", tmp_path / "out", overwrite=True, **settings)
        assert plan.model_bytes == report.sizes.model_bytes > 0
        assert (plan.relative_squared_error, plan.tensors) == (None, [])


# The budget is kept and used.


@pytest.mark.parametrize("target", [3.6, 3.75, 4.2, 5.0, 6.2])
def test_target_bits_are_kept_and_used(tmp_path: Path, target: float) -> None:
    source = many_blocks(tmp_path / "in")
    report = thermoq.quantize(source, tmp_path / "out", target_bits=target)
    assert 0.99 * target <= report.sizes.bits_per_weight_quantized <= target
    assert report.budget is not None
    assert report.budget.achieved_bits == report.sizes.bits_per_weight_quantized


@pytest.mark.parametrize("max_size", [280_000, "350KB", "0.42MB"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "30KB"])
def test_the_largest_size_is_kept_and_used(
    tmp_path: Path, max_size: str | int, max_shard_size: str
) -> None:
    source = many_blocks(tmp_path / "in")
    report = thermoq.quantize(
        source, tmp_path / "out", max_size=max_size, max_shard_size=max_shard_size
    )
    limit = QuantizationConfig(max_size=max_size).max_size_bytes
    assert limit is not None
    written = file_bytes(tmp_path / "out/transformer")
    assert 0.99 * limit <= written <= limit
    assert report.budget is not None
    assert report.budget.achieved_bytes == report.budget.predicted_bytes == written
    assert report.budget.max_size_bytes == limit
    thermoq.verify(tmp_path / "out")


def test_a_budget_with_room_for_everything(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "in", "F32")
    report = thermoq.quantize(source, tmp_path / "out", max_size="1GB")
    assert {row.encoding for row in report.layers} == {"q8"}
    assert report.bit_width == 8


@pytest.mark.parametrize("bit_width", [2, 4])
@pytest.mark.parametrize("name", ["unet", "dit", "dream"])
def test_it_beats_the_uniform_choice_of_the_same_size(
    tmp_path: Path, name: str, bit_width: int
) -> None:
    source = models.MAKERS[name](tmp_path / name, "BF16")
    uniform = thermoq.quantize(source, tmp_path / "uniform", bit_width=bit_width)
    budgets: list[dict[str, Any]] = [
        {"max_size": uniform.sizes.model_bytes},
        {"target_bits": uniform.sizes.bits_per_weight_quantized},
    ]
    for settings in budgets:
        chosen = thermoq.quantize(source, tmp_path / "chosen", overwrite=True, **settings)
        assert chosen.sizes.model_bytes <= uniform.sizes.model_bytes + 1000
        assert chosen.relative_squared_error is not None
        assert uniform.relative_squared_error is not None
        assert chosen.relative_squared_error <= uniform.relative_squared_error


@pytest.mark.parametrize(("encoding", "most"), [("coded", 0.95), (None, 0.5)])
def test_it_beats_the_uniform_choice_on_a_real_model(
    quantized: Quantized, tmp_path: Path, encoding: str | None, most: float
) -> None:
    """The uniform one is coded; with trellis among the candidates half of its error is left."""
    run = quantized("minilm", "BF16", encoding="coded")
    uniform = run.report
    limit = uniform.sizes.model_bytes
    settings: dict[str, Any] = {"max_size": limit, "encoding": encoding}
    plan = thermoq.plan_quantization(run.source, **settings)
    report = thermoq.quantize(run.source, tmp_path / "out", **settings)
    assert 0.99 * limit <= report.sizes.model_bytes <= limit
    assert report.sizes.model_bytes == plan.model_bytes
    assert report.relative_squared_error is not None
    assert uniform.relative_squared_error is not None
    assert report.relative_squared_error < most * uniform.relative_squared_error
    assert plan.relative_squared_error == pytest.approx(report.relative_squared_error, rel=0.02)
    assert report.budget is not None
    assert report.budget.predicted_lower_bound <= 1.02 * report.budget.squared_error
    assert len({(row.bit_width, row.group_size) for row in report.layers}) > 2


# What a budget does not touch.


def test_pinned_layers_stay_pinned(tmp_path: Path) -> None:
    source = many_blocks(tmp_path / "in")
    rules = [
        {"match": QUERY, "bit_width": 8},
        {"match": "*.2.attn1.to_q.weight", "bit_width": 2, "encoding": "affine", "group_size": 8},
        {"match": "*.3.attn1.to_q.weight", "skip": True},
        {"match": "*.4.attn1.to_q.weight", "group_size": 24, "encoding": "affine"},
    ]
    for target in (4.5, 7.0):
        report = thermoq.quantize(
            source, tmp_path / "out", target_bits=target, layers=rules, overwrite=True
        )
        rows = {row.name: row for row in report.layers}
        found = rows[QUERY]
        assert (found.bit_width, found.encoding) == (8, "q8")
        found = rows[QUERY.replace(".1.", ".2.", 1)]
        assert (found.bit_width, found.encoding, found.group_size) == (2, "affine", 8)
        assert QUERY.replace(".1.", ".3.", 1) not in rows
        found = rows[QUERY.replace(".1.", ".4.", 1)]
        assert found.bit_width == 8 or (found.encoding, found.group_size) == ("affine", 24)
        for row in report.layers:
            fewest = {"body": 2, "modulation": 4}.get(row.layer_class, 8)
            assert row.bit_width >= fewest
        assert report.sizes.bits_per_weight_quantized <= target


@pytest.mark.parametrize(("encoding", "target"), [("coded", 3.1), (None, 3.3)])
def test_tensors_with_the_same_bytes_stay_together(
    tmp_path: Path, encoding: str | None, target: float
) -> None:
    maker = models.Maker("F32")
    for block in range(6):
        maker.linear(f"blocks.{block}.proj", 64, 128, bias=False)
    for block in range(6, 9):
        maker.repeat(f"blocks.{block}.proj.weight", "blocks.0.proj.weight")
    source = tmp_path / "in"
    write_json(source / "config.json", {})
    write_safetensors(source / "model.safetensors", maker.tensors)
    layers = [{"match": "blocks.8.*", "bit_width": 8}]
    report = thermoq.quantize(
        source, tmp_path / "out", target_bits=target, layers=layers, encoding=encoding
    )
    rows = {row.name: row for row in report.layers}
    first = rows["blocks.0.proj.weight"]
    for block in (6, 7):
        row = rows[f"blocks.{block}.proj.weight"]
        assert row.same_as == first.name
        assert (row.bit_width, row.group_size, row.stored_bytes) == (
            first.bit_width,
            first.group_size,
            0,
        )
    assert rows["blocks.8.proj.weight"].same_as is None  # pinned, so treated otherwise
    # What is stored once costs once and helps three times: it gets more bits than the others.
    assert first.bit_width > rows["blocks.1.proj.weight"].bit_width
    thermoq.verify(tmp_path / "out")


# Budgets that cannot be.


@pytest.mark.parametrize(("key", "value"), [("target_bits", 2.0), ("max_size", "100KB")])
def test_an_impossible_budget_says_the_smallest_possible(
    tmp_path: Path, key: str, value: float | str
) -> None:
    def budget(size: float | str) -> dict[str, Any]:
        return {key: float(size) if key == "target_bits" else size}

    source = many_blocks(tmp_path / "in")
    with pytest.raises(UsageError) as raised:
        thermoq.quantize(source, tmp_path / "out", **budget(value))
    found = re.fullmatch(
        rf"--{key.replace('_', '-')}: expected at least (\S+) \(the \D+ that these settings and "
        rf"`layers` rules allow\), got {value if key != 'target_bits' else 2}",
        str(raised.value),
    )
    assert found, raised.value
    assert not (tmp_path / "out").exists()
    report = thermoq.quantize(source, tmp_path / "out", **budget(found[1]))
    bits = {row.layer_class: row.bit_width for row in report.layers}
    assert bits == {"body": 2, "modulation": 4, "sensitive": 8, "table": 8}
    slightly_less = re.sub(
        r"[\d.]+", lambda number: f"{float(number[0]) - 0.002:.3f}", found[1], count=1
    )
    with pytest.raises(UsageError, match="expected at least"):
        thermoq.plan_quantization(source, **budget(slightly_less))
    rules = [{"match": "*.norm1.linear.weight", "bit_width": 2}]
    thermoq.plan_quantization(source, layers=rules, **budget(slightly_less))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_bits": 3.0, "max_size": "1GB"},
            "--max-size: expected null beside target_bits, got '1GB'",
        ),
        (
            {"target_bits": 3.0, "bit_width": 4},
            "--bit-width: expected none beside a size budget, which chooses it, got 4",
        ),
        (
            {"max_size": "3XB"},
            "--max-size: expected a size of at least one byte such as 3GB or 500MB, or null, "
            "got '3XB'",
        ),
        ({"max_size": 0}, "--max-size: expected a size of at least one byte"),
        ({"target_bits": 0}, "--target-bits: expected bits per weight above 0, or null, got 0"),
        ({"target_bits": float("nan")}, "--target-bits: expected bits per weight above 0"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        thermoq.plan_quantization(tmp_path, **settings)
    assert str(raised.value).startswith(message)


def test_baseline_has_no_budget(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "in", "BF16")
    with pytest.raises(UsageError, match=r"^baseline: expected no target_bits and max_size"):
        thermoq.baseline(source, tmp_path / "out", target_bits=3.0)


def test_a_flag_wins_over_what_the_file_says_of_the_size(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "in", "BF16")
    config = tmp_path / "c.yaml"
    config.write_text("quantization: {bit_width: 4}\n")
    plan = thermoq.plan_quantization(source, config=config, target_bits=6.0)
    assert (plan.target_bits, plan.max_size_bytes) == (6.0, None)
    config.write_text("quantization: {target_bits: 6.0}\n")
    assert thermoq.plan_quantization(source, config=config).target_bits == 6.0
    plan = thermoq.plan_quantization(source, config=config, max_size="1MB")
    assert (plan.target_bits, plan.max_size_bytes) == (None, 10**6)
    plan = thermoq.plan_quantization(source, config=config, bit_width=4)
    assert (plan.target_bits, plan.max_size_bytes) == (None, None)


def test_bad_weights_are_named_before_anything_is_written(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "in", "F32", shards=1)

    def spoil(tensors: models.Tensors) -> models.Tensors:
        dtype, shape, data = tensors["lm_head.weight"]
        return {**tensors, "lm_head.weight": (dtype, shape, b"\xff" * 4 + data[4:])}

    models.replace_tensors(source / "model.safetensors", spoil)
    for work in (
        lambda: thermoq.quantize(source, tmp_path / "out", target_bits=4.0),
        lambda: thermoq.plan_quantization(source),
    ):
        with pytest.raises(InputError, match=r"tensor 'lm_head\.weight': expected finite weights"):
            work()
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


# What is told of it.


def test_the_report_of_a_budget(tmp_path: Path) -> None:
    source = many_blocks(tmp_path / "in")
    report = thermoq.quantize(
        source,
        tmp_path / "out",
        target_bits=4.5,
        report=tmp_path / "r.json",
        html_report=tmp_path / "r.html",
    )
    budget = report.budget
    assert budget is not None
    assert (budget.target_bits, budget.max_size_bytes) == (4.5, None)
    assert budget.squared_error == sum(row.squared_error for row in report.layers)
    assert budget.predicted_squared_error == pytest.approx(budget.squared_error, rel=1e-6)
    assert budget.predicted_relative_squared_error == pytest.approx(report.relative_squared_error)
    assert 0 < budget.predicted_lower_bound <= budget.predicted_squared_error
    assert sum(row.num_tensors for row in budget.schemes) == len(report.layers)
    assert sum(row.stored_bytes for row in budget.schemes) == report.sizes.quantized_bytes
    body = [row for row in report.layers if row.layer_class == "body"]
    weights: dict[tuple[object, ...], int] = {}
    for row in body:
        key = (row.bit_width, row.encoding, row.group_size, row.scale_bits, row.minimum_bits)
        weights[key] = weights.get(key, 0) + row.num_weights
    assert len(weights) > 1
    headline = (report.bit_width, report.encoding, report.group_size)
    assert (*headline, report.scale_bits, report.minimum_bits) == max(
        weights, key=lambda key: weights[key]
    )
    assert report.settings["target_bits"] == 4.5
    entry = json.loads((tmp_path / "out/transformer/config.json").read_text())
    assert entry["quantization_config"]["bit_width"] == report.bit_width
    assert report.provenance.times_s.keys() >= {"error_curves_s", "budget_s"}
    log = (tmp_path / "r.log").read_text()
    assert " of at most 4.5 bits per quantized weight" in log
    for row_of in budget.schemes:
        assert f"in {row_of.encoding} {row_of.bit_width}, groups of {row_of.group_size}" in log
    page = (tmp_path / "r.html").read_text()
    assert " of at most 4.5 bits per quantized weight" in page
    embedded = json.loads((tmp_path / "out/transformer/thermoq.json").read_text())["report"]
    assert embedded["budget"]["target_bits"] == 4.5
    assert "--bit-width" not in (report.assessment.next_command if report.assessment else "")


def test_no_budget_no_section(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "in", "BF16")
    assert thermoq.quantize(source, tmp_path / "out").budget is None


def test_both_passes_are_shown(tmp_path: Path) -> None:
    tasks: list[str] = []
    seen: dict[str, list[str]] = {}
    totals: list[tuple[int, int]] = []

    class Watching:
        def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
            tasks.append(task)
            totals.append((total_tensors, total_bytes))

        def advance(self, tensor: str, nbytes: int) -> None:
            seen.setdefault(tasks[-1], []).append(tensor)

    source = models.dit(tmp_path / "in", "BF16")
    thermoq.quantize(source, tmp_path / "out", target_bits=5.0, progress=Watching())
    assert tasks == ["measure", "quantize"]
    assert seen["measure"] == seen["quantize"]
    assert totals[0] == totals[1] == (len(seen["measure"]), totals[0][1])


def test_threads_and_levels_change_no_choice(simd_level: str, tmp_path: Path) -> None:
    source = models.dit(tmp_path / "in", "BF16")
    trees = []
    for threads in (1, 4):
        thermoq.quantize(source, tmp_path / str(threads), target_bits=4.5, threads=threads)
        trees.append(models.tree(tmp_path / str(threads)))
    assert trees[0] == trees[1]
