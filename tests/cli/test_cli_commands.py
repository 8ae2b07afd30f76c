"""Every documented flag of every command, once, and what it does."""

from __future__ import annotations

import importlib.resources
import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import thermoq
from calibrations import calibrated
from command_line import (
    Finished,
    run,
    small_model,
    small_pipeline,
    small_tensors,
    stored,
    succeed,
    tree,
)
from comparison_examples import denoiser_evaluation
from models import dit, dream, read_tensors, unet
from safetensors_files import Tensors
from thermoq import demonstration
from thermoq.checkpoint import read_header
from thermoq.comparison.sources import source_of_directory
from thermoq.report.json import THERMODYNAMIC_KEYS, read_json
from thermoq.shipped_evaluation import (
    ShippedEvaluations,
    ShippedVariant,
    digest_of,
    figures_of,
)

QUERY = "transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline named `model`."""
    small_pipeline(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report_of(command: str, *flags: object) -> dict[str, Any]:
    """Run `command` from `model` into `out` and return the JSON report that it prints."""
    shutil.rmtree("out", ignore_errors=True)
    finished = succeed(command, "--model", "model", "--output", "out", "--json", *flags)
    assert finished.stderr == ""
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def layers(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["layers"]}


# baseline and quantize.


@pytest.mark.parametrize("command", ["baseline", "quantize"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"bit_width": 2, "num_time_groups": 4}),
        (["--bit-width", 4], {"bit_width": 4, "nominal_compression_ratio": 8.0}),
        (["--bit-width", 8], {"bit_width": 8, "encoding": "q8", "group_size": 32}),
        (["--num-time-groups", 10], {"num_time_groups": 10}),
        (["--group-size", 24], {"group_size": 24}),
        (["--encoding", "affine"], {"encoding": "affine"}),
        (["--activation-bits", 4], {"activation_bits": 4}),
        (["--sampling-steps", 20], {"sampling_steps": 20}),
        (["--smoothness-threshold", 0.001], {"violation_count": 3}),
        (["--smoothness-threshold", 1], {"violation_count": 0}),
    ],
)
def test_a_setting_is_in_the_report(
    flags: list[object], expected: dict[str, object], command: str, there: Path
) -> None:
    report = report_of(command, *flags)
    assert {key: report[key] for key in expected} == expected
    assert report["phase"] == "baseline"
    assert report["method"] == ("minmax" if command == "baseline" else "lsq")
    row = 72  # of trellis, as long as the tensor's own
    size = row if report["encoding"] == "trellis" else report["group_size"]
    assert layers(report)[QUERY]["group_size"] == size


def test_what_is_stored_by_default(there: Path) -> None:
    keys = ("method", "encoding", "group_size", "scale_bits", "minimum_bits", "window_bits")
    stored = []
    for words in (["baseline"], ["quantize"], ["quantize", "--bit-width", 4]):
        report = report_of(*words)
        stored.append([report[key] for key in keys])
    assert stored == [
        ["minmax", "affine", 64, None, None, None],
        ["lsq", "trellis", None, None, None, 12],
        ["lsq", "coded", 32, 6, 6, None],
    ]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--encoding", "affine"], {"encoding": "affine", "group_size": 64, "method": "lsq"}),
        (["--method", "minmax"], {"encoding": "affine", "group_size": 64, "method": "minmax"}),
        (["--encoding", "coded"], {"group_size": 16, "scale_bits": 4, "minimum_bits": 4}),
        (["--group-size", 24], {"encoding": "coded", "group_size": 24}),
        (["--super-block", 64], {"encoding": "coded", "super_block": 64}),
        (["--scale-bits", 8], {"encoding": "coded", "scale_bits": 8, "minimum_bits": 4}),
        (["--minimum-bits", 1], {"encoding": "coded", "scale_bits": 4, "minimum_bits": 1}),
        (["--effort", 1], {"encoding": "trellis", "window_bits": 8}),
        (["--effort", 1, "--group-size", 24], {"encoding": "trellis", "group_size": 24}),
        (["--bit-width", 4], {"group_size": 32, "scale_bits": 6, "minimum_bits": 6}),
    ],
)
def test_encodings(flags: list[object], expected: dict[str, object], there: Path) -> None:
    report = report_of("quantize", *flags)
    assert {key: report[key] for key in expected} == expected
    row = layers(report)[QUERY]
    assert {key: row[key] for key in expected} == expected
    succeed("verify", "out")


def test_method_and_phase(there: Path) -> None:
    report = report_of("quantize", "--method", "minmax", "--phase", "baseline")
    assert (report["method"], report["phase"]) == ("minmax", "baseline")


def test_seed_and_threads(there: Path) -> None:
    report = report_of("baseline", "--seed", 7, "--threads", 1)
    assert report["provenance"]["seed"] == 7
    assert report["provenance"]["threads"] == 1
    one = tree(Path("out"))
    report_of("baseline", "--seed", 7, "--threads", 3)
    assert tree(Path("out")) == one


def test_component(there: Path) -> None:
    assert {row["component"] for row in report_of("baseline")["layers"]} == {"transformer"}
    report = report_of("baseline", "--component", "vae")
    assert layers(report)["conv.weight"]["component"] == "vae"
    assert Path("out/vae/thermoq.json").is_file()
    succeed("verify", "out")
    assert "vae/conv.weight" in succeed("inspect", "out").stdout


def test_max_shard_size(there: Path) -> None:
    report_of("baseline", "--max-shard-size", "2kb")
    shards = list(Path("out/transformer").glob("*-of-0000*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        header = read_header(shard)
        one_tensor = len({name.rpartition(".")[0] for name in header.tensors}) == 1
        assert one_tensor or header.file_bytes - header.data_start <= 2000


def test_reports_and_log(there: Path) -> None:
    flags = ["--report", "r.json", "--html-report", "r.html"]
    finished = succeed("baseline", "--model", "model", "--output", "out", *flags)
    report = json.loads(Path("r.json").read_text())
    assert sorted(path.name for path in there.iterdir()) == [
        *("model", "out", "r.html", "r.json", "r.log")
    ]
    printed = dict(line.split(maxsplit=1) for line in finished.stdout.splitlines())
    assert printed["output"] == "out"
    assert printed["report"] == "r.json"
    assert printed["page"] == "r.html"
    assert printed["next"] == report["assessment"]["next_command"]
    assert f"{report['smoothness_score']:.4f} " in printed["smoothness"]
    assert "noise-schedule prior" in printed["parameters"]
    assert f"{report['compression_ratio']:.2f}x on disk" in printed["size"]
    assert f"{report['sizes']['bits_per_weight_quantized']:.2f} bits per weight" in printed["size"]
    words = ["thermoq", "baseline", "--model", "model", "--output", "out", *flags]
    assert report["provenance"]["command"] == shlex.join(words)
    assert f"command: {shlex.join(words)}" in Path("r.log").read_text()
    assert Path("r.html").read_text().startswith("<!doctype html>")


def test_json_is_the_report_and_nothing_else(there: Path) -> None:
    flags = ["--report", "r.json", "--html-report", "r.html", "--json"]
    finished = succeed("baseline", "--model", "model", "--output", "out", *flags)
    assert finished.stdout == Path("r.json").read_text()
    assert finished.stderr == ""
    assert read_json(Path("r.json")).model_name == "model"


def test_without_report_there_is_only_the_output(there: Path) -> None:
    succeed("baseline", "--model", "model", "--output", "out")
    assert sorted(path.name for path in there.iterdir()) == ["model", "out"]


@pytest.mark.parametrize("flag", ["--quiet", "-q"])
def test_quiet_is_silent(flag: str, there: Path) -> None:
    silent = Finished(0, "", "")
    assert run("baseline", "--model", "model", "--output", "out", flag) == silent
    assert run("verify", "out", flag) == silent
    assert run("export", "out", "dense", flag) == silent


def test_piped_runs_print_no_progress(there: Path) -> None:
    for arguments in [
        ["baseline", "--model", "model", "--output", "out"],
        ["verify", "out"],
        ["export", "out", "dense"],
        ["inspect", "out"],
    ]:
        finished = succeed(*arguments)
        assert finished.stderr == ""
        assert "\x1b" not in finished.stdout


def test_overwrite(there: Path) -> None:
    report_of("baseline", "--bit-width", 8)
    arguments = ["baseline", "--model", "model", "--output", "out", "--bit-width", 2]
    assert run(*arguments).exit_code == 1
    succeed(*arguments, "--overwrite")
    assert json.loads(Path("out/transformer/thermoq.json").read_text())["bit_width"] == 2
    succeed("verify", "out")


def test_no_validation_leaves_the_thermodynamic_keys_out(there: Path) -> None:
    report = report_of("baseline", "--no-validation", "--report", "r.json")
    assert THERMODYNAMIC_KEYS.isdisjoint(report)
    assert report["cosine_similarity"] > 0
    assert report_of("baseline", "--validation").keys() >= THERMODYNAMIC_KEYS
    Path("off.yaml").write_text(
        "quantization: {thermodynamic: {validation: {enabled: false}}}\n", encoding="utf-8"
    )
    off = ["--config", "off.yaml", "--html-report", "r.html", "--report", "r.json", "--overwrite"]
    finished = succeed("baseline", "--model", "model", "--output", "out", *off)
    assert "thermodynamic.validation.enabled: true or --validation" in finished.stdout
    assert "next" not in finished.stdout
    assert "thermodynamic.validation.enabled" in Path("r.log").read_text()
    assert "thermodynamic.validation.enabled" in Path("r.html").read_text()
    assert THERMODYNAMIC_KEYS.isdisjoint(json.loads(Path("r.json").read_text()))
    assert report_of("baseline", *off[:2], "--validation").keys() >= THERMODYNAMIC_KEYS


def test_a_pattern_that_matches_nothing_is_a_warning(there: Path) -> None:
    Path("c.yaml").write_text("quantization:\n  layers: [{match: 'x.*', skip: true}]\n")
    for more in ([], ["--quiet", "--overwrite"], ["--json", "--overwrite"]):
        arguments = ["baseline", "--model", "model", "--output", "out", "--config", "c.yaml"]
        finished = succeed(*arguments, "--report", "r.json", *more)
        assert finished.stderr == "warning: layers: pattern 'x.*' matches no tensor\n"
        warnings = json.loads(Path("r.json").read_text())["warnings"]
        assert warnings == ["layers: pattern 'x.*' matches no tensor"]
    assert "pattern 'x.*'" in run("inspect", "model", "--config", "c.yaml").stderr


def test_what_is_not_carried_over_is_said(there: Path) -> None:
    Path("model/transformer/old.bin").write_bytes(b"pickle")
    finished = succeed("baseline", "--model", "model", "--output", "out")
    assert "warning: left out weights in other formats" in finished.stderr
    assert "old.bin" in finished.stderr
    assert not Path("out/transformer/old.bin").exists()


# inspect.


def test_inspect_shows_the_plan(there: Path) -> None:
    finished = succeed("inspect", "model")
    assert finished.stdout.startswith("model (diffusers layout, not quantized; the plan is shown)")
    rows = {line.split()[0]: line for line in finished.stdout.splitlines()}
    assert rows[f"transformer/{QUERY}"].split()[1:4] == ["24x72", "F32", "body"]
    assert rows[f"transformer/{QUERY}"].endswith("trellis 2, hadamard")
    assert "coded 4" in rows["transformer/transformer_blocks.0.norm1.linear.weight"]
    assert "copied: 1-D" in rows["transformer/transformer_blocks.0.norm1.linear.bias"]
    assert {"body", "modulation", "sensitive", "copied", "all"} <= rows.keys()


def test_inspect_follows_method_and_encoding(there: Path) -> None:
    for flags, expected in (
        ([], "trellis 2, hadamard"),
        (["--rotation", "none"], "trellis 2"),
        (["--method", "minmax"], "affine 2"),
        (["--encoding", "affine"], "affine 2"),
        (["--scale-bits", 8, "--minimum-bits", 8, "--super-block", 64], "coded 2"),
        (["--bit-width", 4], "coded 4"),
        (["--encoding", "coded", "--rotation", "hadamard"], "coded 2, hadamard"),
    ):
        finished = succeed("inspect", "model", *flags)
        (row,) = (line for line in finished.stdout.splitlines() if QUERY in line)
        assert row.rstrip().endswith(f" {expected}")
        succeed("quantize", "--model", "model", "--output", "out", "--overwrite", *flags)
        (stored,) = (
            line for line in succeed("inspect", "out").stdout.splitlines() if QUERY in line
        )
        assert stored.split() == row.split()


def test_inspect_json(there: Path) -> None:
    found = json.loads(succeed("inspect", "model", "--json").stdout)
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert by_name.keys() == small_tensors().keys()
    assert by_name[QUERY]["bit_width"] == 2
    assert by_name[QUERY]["layer_class"] == "body"
    assert not found["quantized"]


def test_inspect_follows_the_settings(there: Path) -> None:
    Path("c.yaml").write_text(f"quantization:\n  layers: [{{match: '{QUERY}', skip: true}}]\n")
    assert f"copied: skipped by layers pattern '{QUERY}'" in (
        succeed("inspect", "model", "--config", "c.yaml").stdout
    )
    four = json.loads(succeed("inspect", "model", "--bit-width", 4, "--json").stdout)
    two = json.loads(succeed("inspect", "model", "--group-size", 8, "--json").stdout)
    assert {t["bit_width"] for t in four["tensors"] if t["layer_class"] == "body"} == {4}
    assert sum(t["stored_bytes"] for t in two["tensors"]) > 0
    assert "vae/conv.weight" in succeed("inspect", "model", "--component", "vae").stdout


def test_inspect_of_an_output_agrees_with_the_report(there: Path) -> None:
    report = report_of("baseline")
    found = json.loads(succeed("inspect", "out", "--json").stdout)
    assert found["quantized"]
    stored_bytes = {t["name"]: t["stored_bytes"] for t in found["tensors"]}
    for row in [*report["layers"], *report["copied"]]:
        assert stored_bytes[row["name"]] == row["stored_bytes"]
    assert "quantized by thermoq" in succeed("inspect", "out").stdout


# verify and export.


def test_verify(there: Path) -> None:
    report = report_of("baseline")
    assert succeed("verify", "out").stdout.startswith("out: 6 tensors in order (5 quantized), ")
    found = json.loads(succeed("verify", "out", "--json").stdout)
    assert found["directory"] == "out"
    assert found["components"] == ["transformer"]
    assert found["num_quantized"] == len(report["layers"])
    assert found["nbytes"] == sum(row["stored_bytes"] for row in report["layers"]) + sum(
        row["stored_bytes"] for row in report["copied"]
    )


@pytest.mark.parametrize(
    ("flag", "dtype"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16"), (None, None)]
)
def test_export_dtypes(flag: str | None, dtype: str | None, there: Path) -> None:
    report_of("baseline")
    flags = ["--dtype", flag] if flag else []
    assert succeed("export", "out", "dense", *flags).stdout == "dense: written\n"
    exported = read_tensors(Path("dense/transformer"))
    assert {name: (dtype or kind, shape) for name, (kind, shape, _) in small_tensors().items()} == {
        name: (kind, shape) for name, (kind, shape, _) in exported.items()
    }
    before, after = tree(Path("model")), tree(Path("dense"))
    assert before.keys() == after.keys()
    rewritten = {"transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"}
    assert {name for name in before if before[name] != after[name]} == rewritten
    config = Path("transformer/config.json")
    assert json.loads(("dense" / config).read_text()) == json.loads(("model" / config).read_text())


def test_export_shards_threads_overwrite(there: Path) -> None:
    report_of("baseline")
    succeed("export", "out", "dense")
    whole = read_tensors(Path("dense/transformer"))
    assert run("export", "out", "dense").exit_code == 1
    succeed("export", "out", "dense", "--overwrite", "--max-shard-size", "3KB", "--threads", 2)
    assert len(list(Path("dense/transformer").glob("*.safetensors"))) > 1
    assert read_tensors(Path("dense/transformer")) == whole


# demo.


def test_demo_of_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(demonstration, "LIVE_SAMPLES", 8)
    two = {name: demonstration.VARIANTS[name] for name in ("baseline", "optimize")}
    monkeypatch.setattr(demonstration, "VARIANTS", two)
    printed = succeed("demo", "--output", tmp_path / "demo").stdout
    page = tmp_path / "demo/comparison.html"
    assert printed.splitlines()[-1].split() == ["open", page.as_uri()]
    succeed("verify", tmp_path / "demo/optimize")
    report = read_json(tmp_path / "demo/optimize.json")
    assert report.parameter_source == "calibration"
    assert report.evaluation is not None
    assert report.evaluation.num_samples == 8
    assert "shipped" not in printed
    found = thermoq.compare([tmp_path / "demo/baseline.json", tmp_path / "demo/optimize.json"])
    (error,) = (row.cells[1] for row in found.rows if row.key == "error_by_part")
    assert error.verdict == "better"
    assert shlex.split(report.assessment.next_command)[0] == "thermoq"


@pytest.fixture
def bundled(there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model in place of the bundled one, with a calibration, and no torch."""
    resources = SimpleNamespace(files=lambda package: there, as_file=importlib.resources.as_file)
    monkeypatch.setattr(demonstration, "resources", resources)
    monkeypatch.setattr(demonstration, "MODEL_FOLDER", "model")
    monkeypatch.setattr(demonstration, "CALIBRATION_FILE", "calibration.safetensors")
    monkeypatch.setattr(demonstration, "EVALUATION_FILE", "evaluation.json")
    monkeypatch.setattr(demonstration, "has_torch", lambda: False)
    calibrated(there / "model", there / "calibration.safetensors")
    return there


def test_demo(bundled: Path) -> None:
    printed = succeed("demo").stdout
    parts = [
        f"{name}{end}" for name in demonstration.VARIANTS for end in ("", ".html", ".json", ".log")
    ]
    assert sorted(path.name for path in Path("thermoq-demo").iterdir()) == sorted(
        ["comparison.html", *parts]
    )
    address = (bundled / "thermoq-demo/comparison.html").as_uri()
    assert printed.splitlines()[-1].split() == ["open", address]
    assert "Phase 3 stops before the output correction" in printed
    assert "not measured: no figures are shipped for it" in printed
    reports = [
        json.loads(Path(f"thermoq-demo/{n}.json").read_text()) for n in demonstration.VARIANTS
    ]
    assert [report["phase"] for report in reports] == ["baseline", "smooth", "optimize", "optimize"]
    assert {(r["bit_width"], r["num_time_groups"]) for r in reports} == {(2, 4)}
    for name in demonstration.VARIANTS:
        succeed("verify", f"thermoq-demo/{name}")

    flags = ["--output", "thermoq-demo", "--bit-width", 8, "--num-time-groups", 6, "--quiet"]
    assert run("demo", *flags) == Finished(0, "", "")
    report = json.loads(Path("thermoq-demo/smooth.json").read_text())
    assert (report["bit_width"], report["num_time_groups"]) == (8, 6)


def test_demo_with_shipped_figures(bundled: Path) -> None:
    succeed("demo")
    shipped = {}
    for name, error in (("baseline", 0.1), ("smooth", 0.1), ("optimize", 0.05)):
        checkpoint = Path("thermoq-demo") / name
        source = source_of_directory(checkpoint, read_json(checkpoint.with_suffix(".json")))
        shipped[name] = ShippedVariant(
            bit_width=2,
            num_time_groups=4,
            codes=digest_of(source.codes or {}),
            figures=figures_of(source.report),
            evaluation=denoiser_evaluation(error),
        )
    file = ShippedEvaluations(command="by hand", variants=shipped)
    Path("evaluation.json").write_text(file.model_dump_json())
    printed = succeed("demo").stdout
    assert " shipped  " in printed
    assert "evaluation figures are shipped, not measured in this run" in " ".join(printed.split())
    page = Path("thermoq-demo/comparison.html").read_text()
    assert 'class="shipped" title="shipped, not measured in this run"' in page
    assert json.loads(Path("thermoq-demo/smooth.json").read_text())["evaluation"] is None

    def without(*flags: object) -> str:
        text = " ".join(succeed("demo", *flags).stdout.split())
        assert " shipped, not measured" not in text
        return text

    said = "the shipped figures are of INT2 and 4 time groups"
    assert said in without("--bit-width", 4)
    assert said in without("--num-time-groups", 6)
    other = {name: one.model_copy(update={"codes": "other"}) for name, one in shipped.items()}
    Path("evaluation.json").write_text(
        file.model_copy(update={"variants": other}).model_dump_json()
    )
    assert "the shipped figures are of other codes" in without()
    moved = {
        name: one.model_copy(update={"figures": {**one.figures, "smoothness_score": 0.1}})
        for name, one in shipped.items()
    }
    Path("evaluation.json").write_text(
        file.model_copy(update={"variants": moved}).model_dump_json()
    )
    assert "the shipped figures are of other time parameters" in without()
    Path("evaluation.json").write_text("{}")
    assert "evaluation.json: not shipped evaluations: command" in run("demo").stderr


def test_demo_refuses_what_is_not_its_own(bundled: Path) -> None:
    Path("mine").mkdir()
    Path("mine/quantized").mkdir()
    Path("mine/quantized/thesis.txt").write_text("text")
    before = tree(bundled)
    finished = run("demo", "--output", "mine")
    assert finished.exit_code == 1
    assert "mine: expected an earlier demo or nothing, got quantized" in finished.problem()
    finished = run("demo", "--output", "gone/demo")
    assert finished.problem() == "error: gone/demo: cannot be written: No such file or directory"
    finished = run("demo", "--output", "mine/quantized/thesis.txt")
    assert finished.exit_code == 1
    assert "thesis.txt: cannot be written: File exists" in finished.problem()
    assert tree(bundled) == before


def test_a_failed_demo_leaves_nothing(bundled: Path) -> None:
    before = tree(bundled)
    assert run("demo", "--bit-width", 3).exit_code == 2
    assert run("demo", "--num-time-groups", 2000).exit_code == 2
    assert tree(bundled) == before


def test_a_demo_after_a_killed_one(bundled: Path) -> None:
    remains = Path("thermoq-demo/.baseline.thermoq-partial-0a1b2c3d")
    remains.mkdir(parents=True)
    assert succeed("demo").stderr.startswith(
        f"warning: {remains.resolve()}: left by a killed run; "
        "safe to delete unless one is still writing\n"
    )


# The next command to type: it exists and works.


CHAINS: dict[str, list[object]] = {
    "defaults": [],
    "one time group": ["--num-time-groups", 1],
    "two": ["--num-time-groups", 2, "--report", "r.json", "--html-report", "r.html"],
    "four bits": ["--bit-width", 4, "--num-time-groups", 2, "--report", "r.json"],
    "groups of a kind": ["--bit-width", 4, "--group-size", 16, "--num-time-groups", 2],
    "every flag": [
        *("--num-time-groups", 3, "--smoothness-threshold=0.2", "--activation-bits", 4, "-q"),
        *("--sampling-steps", 20, "--seed", 3, "--threads", 1, "--max-shard-size", "1MB"),
        *("--overwrite", "--config", "the settings.yaml", "--component", "vae"),
        *("--encoding", "affine", "--validation", "--report", "a report.json"),
    ],
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("command", ["baseline", "quantize"])
def test_the_next_command_runs(command: str, chain: str, there: Path) -> None:
    Path("the settings.yaml").write_text("quantization: {num_time_groups: 50}\n")
    Path("model").rename("a model")
    words: list[object] = [command, "--model", "a model/", "--output", "o'ut/", *CHAINS[chain]]
    seen = []
    for _ in range(12):
        shown = succeed(*words, *([] if "--json" in words else ["--json"]))
        assessment = json.loads(shown.stdout)["assessment"]
        step = assessment["next_command"]
        if shlex.split(step)[1] == "calibrate":
            calibrate_by_hand(step)
            step = assessment["then_command"]
        assert step not in seen
        seen.append(step)
        name, *words = shlex.split(step)
        assert name == "thermoq"
        if words[0] in ("export", "evaluate"):
            break
        assert words[0] in (command, "quantize")
    if words[0] == "evaluate":  # after a later phase; it needs torch and a model that can run
        assert words[1:4:2] == ["--model", "--quantized"]
        assert Path(str(words[2])).is_dir()
        succeed("verify", words[4])
        return
    assert words[0] == "export"
    succeed(*words)
    assert any(Path(str(words[-1])).rglob("*.safetensors"))


def calibrate_by_hand(command: str) -> None:
    """Do what `thermoq calibrate` would, which needs torch and a model that can run."""
    words = shlex.split(command)
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["thermoq", "calibrate"]
    assert given.keys() <= {"--model", "--output", "--bins"}
    num_bins = int(given.get("--bins", 20))
    calibrated(Path(given["--model"]), Path(given["--output"]), num_bins=num_bins)


@pytest.mark.parametrize("make", [unet, dit, dream])
@pytest.mark.parametrize("num_time_groups", [4, 30])
def test_the_next_command_runs_for_every_layout(
    make: Any, num_time_groups: int, there: Path
) -> None:
    make(Path("other"))
    arguments = ["--model", "other", "--output", "out", "--num-time-groups", num_time_groups]
    report = json.loads(succeed("baseline", *arguments, "--json").stdout)
    calibrate_by_hand(report["assessment"]["next_command"])
    words = shlex.split(report["assessment"]["then_command"])[1:]
    measured = json.loads(succeed(*words, "--json").stdout)
    assert measured["parameter_source"] == "calibration"
    succeed(*shlex.split(measured["assessment"]["next_command"])[1:])


def test_the_next_command_where_there_is_no_score(there: Path) -> None:
    tensors: Tensors = {"bias": stored([1.0, 2.0])}
    small_model(there / "flat", tensors)
    report = json.loads(succeed("baseline", "--model", "flat", "--output", "out", "--json").stdout)
    assert report["smoothness_score"] is None
    succeed(*shlex.split(report["assessment"]["next_command"])[1:])
    finished = succeed("baseline", "--model", "flat", "--output", "out2")
    assert "no layer has time parameters" in finished.stdout


# From Python.


def test_the_verbs_from_python(there: Path) -> None:
    report = thermoq.quantize("model", "out", bit_width=4, num_time_groups=3, report="r.json")
    assert isinstance(report, thermoq.Report)
    assert report.bit_width == 4
    assert {layer.name for layer in report.layers} < small_tensors().keys()
    assert report.provenance.command == (
        "thermoq.quantize('model', 'out', bit_width=4, num_time_groups=3)"
    )
    assert read_json(Path("r.json")) == report
    assert thermoq.verify("out").num_tensors == 6
    assert thermoq.export("out", "dense", dtype="float32") == Path("dense")
    assert thermoq.inspect("model").class_totals()[0].layer_class == "body"
    config = thermoq.QuantizationConfig(bit_width=8)
    assert (
        thermoq.baseline(Path("model"), Path("out"), config=config, overwrite=True).bit_width == 8
    )
    with pytest.raises(thermoq.InputError, match="already exists"):
        thermoq.quantize("model", "out")
    with pytest.raises(thermoq.UsageError, match="unknown setting 'bits' "):
        thermoq.quantize("model", "out", bits=2)
    assert set(thermoq.__all__) <= set(dir(thermoq))
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = thermoq.quantise


def test_a_string_names_a_configuration_file(there: Path) -> None:
    Path("c.yaml").write_text("quantization: {bit_width: 8}\n")
    assert thermoq.quantize("model", "out", config="c.yaml").bit_width == 8
    assert thermoq.inspect("model", config="c.yaml").tensors[1].bit_width == 8
    assert os.fspath(thermoq.export("out", Path("dense"))) == "dense"
