"""Where evaluations go, and what the reports advise once they are there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from command_line import succeed

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import thermoq
from thermoq.advice import COMPARE, MEASURE
from thermoq.evaluation.run import evaluate
from thermoq.report.json import read_json, to_json
from thermoq.report.model import Assessment
from thermoq.stored_report import stored_report

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("there")]
SMALL = {"samples": 8, "steps": 2, "threads": 1, "timing": False}


def advised(path: Path) -> Assessment:
    found = read_json(path).assessment
    assert found is not None
    return found


@pytest.fixture
def to_be_evaluated(there: Path) -> Path:
    """The report of a run, here and in the checkpoint, whose only advice is to evaluate it."""
    path = there / "report.json"
    command = "thermoq evaluate --model model --quantized quantized --report report.json"
    report = read_json(path)
    assert report.assessment is not None
    update = {"actions": ["Keep this.", MEASURE], "next_command": command, "then_command": None}
    changed = report.assessment.model_copy(update=update)
    path.write_text(to_json(report.model_copy(update={"assessment": changed})))
    manifest = there / "quantized" / "transformer" / "thermoq.json"
    content = json.loads(manifest.read_text())
    content["report"]["assessment"]["actions"] = update["actions"]
    manifest.write_text(json.dumps(content))
    return path


def test_what_is_done_is_not_advised_again(to_be_evaluated: Path) -> None:
    given = {"report": to_be_evaluated, "html_report": "r.html", **SMALL}
    for _ in range(2):  # the second finds the first one's advice
        evaluate("model", "quantized", **given)
        found = advised(to_be_evaluated)
        assert found.actions == ["Keep this.", COMPARE]
        assert found.next_command == "thermoq inspect quantized"
        for text in (Path("r.html").read_text(), to_be_evaluated.with_suffix(".log").read_text()):
            assert "thermoq evaluate" not in text
            assert "thermoq compare" in text
    succeed(*shlex.split(found.next_command)[1:])


def test_nor_in_a_report_that_is_begun(to_be_evaluated: Path) -> None:
    evaluate("model", "quantized", report="new.json", **SMALL)
    assert advised(Path("new.json")).actions == ["Keep this.", COMPARE]
    stored = stored_report("quantized").assessment
    assert stored is not None
    assert stored.actions == ["Keep this.", COMPARE]


def test_other_advice_stays(there: Path) -> None:
    before = advised(there / "report.json")
    evaluate("model", "quantized", report="report.json", **SMALL)
    assert advised(there / "report.json") == before


def test_the_advised_command_fills_the_report_that_was_given() -> None:
    """So that `compare` on the JSON report finds the evaluation."""
    models = Path(thermoq.__file__).parent / "models"
    calibration = models / "digits-dit-calibration.safetensors"
    printed = succeed(
        *("quantize", "--model", models / "digits-dit", "--output", "q", "--phase", "optimize"),
        *("--bit-width", 8, "--calibration", calibration, "--no-output-correction"),
        *("--report", "mine.json", "--html-report", "my page.html", "--threads", 1),
    ).stdout
    command = advised(Path("mine.json")).next_command
    assert command in printed
    words = shlex.split(command)
    assert words[:2] == ["thermoq", "evaluate"]
    assert words[-4:] == ["--report", "mine.json", "--html-report", "my page.html"]
    small = ("--samples", 8, "--steps", 2, "--judged", 0, "--no-timing", "--threads", 1)
    succeed(*words[1:], *small)
    assert read_json(Path("mine.json")).evaluation is not None
    assert 'id="evaluation"' in Path("my page.html").read_text()
    assert advised(Path("mine.json")).next_command == "thermoq inspect q"
    compared = succeed("compare", "mine.json", "mine.json").stdout
    accuracy = compared[compared.index("Accuracy") : compared.index("Output error")]
    assert "not measured" not in accuracy
