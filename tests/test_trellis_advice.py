"""Where trellis codes are advised: flags with values, that `thermoq` takes as they are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import models
import pytest
import thermoq
from assessment_examples import figures, prior, run
from calibrations import calibrated
from command_line import succeed
from thermoq.assessment import assess
from thermoq.checkpoint.quantized import open_quantized
from thermoq.next_commands import calibrated_command

POOR = figures(0.9, relative_squared_error=0.09)
START = "thermoq quantize --model dream-7b --output out"
TRELLIS = "--encoding trellis --effort 5"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # Other codes of two bits, by whichever method.
        ({"encoding": "coded"}, f"-int2-g4-trellis --bit-width 2 --num-time-groups 4 {TRELLIS}"),
        ({"encoding": "affine", "method": "minmax"},
         f"-int2-g4-trellis --bit-width 2 --num-time-groups 4 --method lsq {TRELLIS}"),
        ({"encoding": "coded", "method": "hessian", "carried": ("--calibration", "c")},
         f"-int2-g4-trellis --bit-width 2 --num-time-groups 4 {TRELLIS} --calibration c"),
        # What belongs to other encodings is left out, the rest is repeated.
        ({"encoding": "coded", "carried": ("--encoding=coded", "--group-size", "16", "--seed=3",
                                           "--scale-bits=3", "--config", "c.yaml")},
         f"-int2-g4-trellis --bit-width 2 --num-time-groups 4 {TRELLIS} --seed=3 --config c.yaml"),
        # A later phase stays, as does a budget.
        ({"encoding": "coded", "phase": "smooth", "carried": ("--phase", "smooth")},
         "-int2-g4-trellis-smooth --bit-width 2 --num-time-groups 4 --phase smooth "
         f"{TRELLIS}"),
        ({"encoding": "coded", "has_budget": True, "bit_width": 4,
          "carried": ("--target-bits", "3")},
         f"-budget-g4-trellis --num-time-groups 4 {TRELLIS} --target-bits 3"),
        # More effort, then more bits; flags are carried.
        ({"encoding": "trellis", "effort": 2, "carried": ("--encoding", "trellis", "--effort=2")},
         "-int2-g4-effort5 --bit-width 2 --num-time-groups 4 --effort 5 --encoding trellis"),
        ({"encoding": "trellis", "effort": 5, "carried": ("--encoding", "trellis")},
         "-int3-g4 --bit-width 3 --num-time-groups 4 --encoding trellis"),
        ({"encoding": "trellis", "effort": 5, "carried": ("--effort", "5")},
         "-int3-g4 --bit-width 3 --num-time-groups 4 --encoding trellis --effort 5"),
        ({"encoding": "trellis", "effort": 5, "bit_width": 3, "output": "out-int3-g4",
          "carried": ("--encoding", "trellis", "--effort", "5")},
         "-int4-g4 --bit-width 4 --num-time-groups 4 --encoding trellis --effort 5"),
    ],
)  # fmt: skip
def test_what_comes_before_more_bits(given: dict[str, Any], expected: str) -> None:
    found = assess(POOR, run(command="quantize", **given))
    assert found.next_command == f"{START}{expected}"


@pytest.mark.parametrize(
    "given",
    [
        {"encoding": "coded", "trellis_fits": False},
        {"encoding": "coded", "bit_width": 4},
        {"encoding": "trellis", "effort": 5, "method": "hessian"},
        {"encoding": "trellis", "effort": 1, "method": "hessian"},
        {"encoding": "trellis", "effort": 5, "has_budget": True},
        {"encoding": "q8", "bit_width": 8, "has_budget": True},
        {"encoding": "affine", "method": "minmax", "lsq_fits": False},
    ],
)
def test_where_it_is_not_advised(given: dict[str, Any]) -> None:
    found = assess(POOR, run(command="quantize", **given))
    assert "trellis" not in found.next_command
    assert "--effort" not in found.next_command
    good = assess(figures(0.9, relative_squared_error=0.01), run(encoding="coded"))
    assert "trellis" not in str(good.actions)


@pytest.mark.parametrize("carried", ["--effort=2", "--encoding=trellis"])
def test_what_eight_bits_refuse(carried: str) -> None:
    settings = run(bit_width=4, encoding="trellis", effort=5, carried=(carried,))
    assert "--bit-width 8" not in assess(POOR, settings).next_command


def test_the_reasons_have_the_flags() -> None:
    for method, start in (
        ("lsq", "Choose trellis codes, `"),
        ("minmax", "Choose the INT2 codes by"),
    ):
        actions = assess(POOR, run(method=method, encoding="affine")).actions
        (text,) = (action for action in actions if "trellis" in action)
        assert text.startswith(start)
        assert f"`{TRELLIS}`: of about 2.1 bits" in text
        assert "`--dry-run` measures" in text
    (text,) = (
        action
        for action in assess(POOR, run(encoding="trellis", effort=1)).actions
        if "effort" in action
    )
    assert text.startswith("Spend more effort on the same bits, `--effort 5` instead of 1: ")
    # Under the prior the sentence is all there is: the commands calibrate.
    poor = prior(0.9, relative_squared_error=0.09)
    assert any(TRELLIS in action for action in assess(poor, run(encoding="coded")).actions)


def test_a_calibrated_run_keeps_encoding_and_effort() -> None:
    carried = ("--encoding", "trellis", "--effort", "2")
    command = calibrated_command(run(encoding="trellis", effort=2, carried=carried))
    assert command.endswith(" --encoding trellis --effort 2")


@pytest.mark.parametrize("given", ["typed", "yaml", "object", "keywords"])
def test_effort_comes_along_wherever_it_was_given(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models.dit(Path("model"), "F32")
    settings: dict[str, Any] = {"encoding": "trellis", "effort": 1}
    Path("c.yaml").write_text("quantization: {encoding: trellis, effort: 1}\n")
    flags: dict[str, list[object]] = {
        "typed": ["--encoding", "trellis", "--effort", 1],
        "yaml": ["--config", "c.yaml"],
    }
    if given in flags:
        succeed(
            "quantize", "--model", "model", "--output", "out", *flags[given], "--report", "r.json"
        )
        report = thermoq.Report.model_validate_json(Path("r.json").read_text())
    elif given == "object":
        config = thermoq.QuantizationConfig(**settings)
        report = thermoq.quantize("model", "out", config=config)
    else:
        report = thermoq.quantize("model", "out", **settings)
    assert report.assessment is not None
    then = shlex.split(report.assessment.then_command or "")
    calibrated(Path("model"), Path(then[then.index("--calibration") + 1]), rows_per_bin=24)
    succeed(*then[1:])
    again = open_quantized(Path(then[then.index("--output") + 1]))[1][0].manifest.tensors
    windows = {getattr(entry, "window_bits", None) for entry in again.values()}
    assert windows == {None, 8}


def test_the_advised_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From rounded weights to trellis codes, which are smaller and nearer."""
    monkeypatch.chdir(tmp_path)
    models.dit(Path("model"), "F32")
    calibrated(Path("model"), Path("c.safetensors"), rows_per_bin=24)
    report = thermoq.baseline("model", "out", calibration="c.safetensors", report="r.json")
    assert report.assessment is not None
    words = shlex.split(report.assessment.next_command)
    assert {"trellis", "--effort", "lsq"} <= set(words)
    succeed(*words[1:])
    better = thermoq.Report.model_validate_json(
        Path(words[words.index("--report") + 1]).read_text()
    )
    assert better.encoding == "trellis"
    assert (better.relative_squared_error or 1) < 0.9 * (report.relative_squared_error or 0)
    assert better.assessment is not None
    step = shlex.split(better.assessment.next_command)  # the weights are settled
    assert (step[1], step[step.index("--encoding") + 1]) == ("quantize", "trellis")
    assert step[step.index("--effort") + 1] == "5"
    succeed(*step[1:])


@pytest.mark.parametrize("method", ["lsq", "hessian"])
def test_a_dry_run_tells_what_every_effort_costs(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models.dit(Path("model"), "F32")
    calibrated(Path("model"), Path("c.safetensors"), rows_per_bin=24)
    flags = ("--calibration", "c.safetensors", "--method", method, *TRELLIS.split()[:2])
    lines = succeed("quantize", "--model", "model", "--dry-run", *flags, "--effort", 2).stdout
    efforts, chosen = (
        next(line for line in lines.splitlines() if line.startswith(f"{name} "))
        for name in ("effort", "encoding")
    )
    figures_of = re.findall(r"(\d): ([\d.e-]+)", efforts)
    assert [int(effort) for effort, _ in figures_of] == [1, 2, 3, 4, 5]
    assert all(float(minutes) > 0 for _, minutes in figures_of)
    assert efforts.endswith(" minutes per billion weights here, as measured")
    assert ("with effort 2, hessian's matrix products" in chosen) == (method == "hessian")
    plain = succeed("quantize", "--model", "model", "--dry-run", "--encoding", "coded").stdout
    assert "minutes" not in plain
