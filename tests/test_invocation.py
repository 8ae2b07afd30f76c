"""What a report says of how its run was started."""

from __future__ import annotations

from pathlib import Path

import models
import thermoq
from thermoq.invocation import Invocation, from_command_line, from_python


def test_a_call_is_repeated_as_flags() -> None:
    settings = {
        "bit_width": 4,
        "method": "minmax",
        "group_size": 32,
        "smoothness_threshold": 0.2,
        "validation": False,
        "components": ["vae"],
        "layers": [{"match": "*", "skip": True}],
        "seed": None,
    }
    made = from_python("quantize", Path("m"), "o", Path("c.yaml"), settings)
    assert made.typed.startswith("thermoq.quantize('m', 'o', config='c.yaml', bit_width=4, ")
    words = "--config c.yaml --method minmax --group-size 32 --smoothness-threshold 0.2 "
    words += "--no-validation"
    assert made.carried == (*words.split(), "--component", "vae")


def test_what_was_typed_is_quoted() -> None:
    made = from_command_line("baseline", ["baseline", "--model", "a b"], ["--seed", "1"])
    assert made == Invocation("baseline", "thermoq baseline --model 'a b'", ("--seed", "1"))


def test_the_report_tells_command_and_settings(tmp_path: Path) -> None:
    models.dit(tmp_path / "dit", "F32")
    report = thermoq.baseline(tmp_path / "dit", tmp_path / "out", group_size=32)
    assert report.provenance.command.startswith("thermoq.baseline(")
    assert report.provenance.command.endswith("group_size=32)")
    assert report.assessment is not None
    assert "--group-size 32" in (report.assessment.then_command or "")
    assert report.settings["group_size"] == 32
    assert report.settings["thermodynamic"]["validation"]["smoothness_threshold"] == 0.3
