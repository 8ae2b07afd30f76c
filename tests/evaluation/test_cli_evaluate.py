"""`thermoq evaluate` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run, succeed

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from thermoq.report.evaluation_model import Evaluation

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("there")]
BOTH = ("--model", "model", "--quantized", "quantized", "--threads", 1)
SMALL = (*BOTH, "--samples", 8, "--steps", 4)


def test_what_is_printed() -> None:
    finished = succeed("evaluate", *SMALL, "--report", "report.json", "--html-report", "r.html")
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert lines[0].startswith(
        "8 samples from held-out seeds, in 4 steps (DDIMScheduler), seed 0; intervals of 95% by"
    )
    assert lines[2] == "Prediction of the quantized model beside full precision's, by time group"
    heads = ["from", "passes", "output error", "cosine", "transition KL"]
    assert [word.strip() for word in lines[3].split("  ") if word] == heads
    names = [line.split("  ")[0] for line in lines if line.startswith(("time", "quarter", "over"))]
    groups, quarters = [f"time group {i}" for i in range(4)], [f"quarter {i}" for i in range(1, 5)]
    assert names == [*groups, "overall", *quarters]
    assert json.loads(Path("report.json").read_text())["evaluation"]["steps"] == 4
    assert Path("r.html").is_file()
    assert "overall: from t = 999, passes 32, output error" in Path("report.log").read_text()


def test_json_is_the_evaluation() -> None:
    finished = succeed("evaluate", *SMALL, "--json")
    found = Evaluation.model_validate_json(finished.stdout)
    assert found.num_samples == 8
    assert succeed("evaluate", *SMALL, "--quiet").stdout == ""


def test_fewer_samples_than_asked_for_are_told() -> None:
    np.save("nine.npy", np.random.default_rng(0).uniform(-1, 1, (9, 1, 8, 8)).astype(np.float32))
    finished = succeed("evaluate", *BOTH, "--steps", 4, "--samples", 32, "--data", "nine.npy")
    assert finished.stderr == (
        "warning: nine.npy: 9 different images, all of them used, not the 32 of --samples\n"
    )
    assert finished.stdout.startswith("9 samples from images of nine.npy, in 4 steps")
    np.save("two.npy", np.zeros((2, 1, 8, 8), np.float32))
    refused = run("evaluate", *BOTH, "--samples", 32, "--data", "two.npy")
    assert refused.exit_code == 2
    assert refused.problem().startswith("error: two.npy: --data: expected at least 8 different")


def test_figures_are_whole_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from thermoq.cli import evaluate
    from thermoq.report.evaluation_wording import EvaluationTable

    cells = ("t = 999", "1,024", "0.0215 (0.0206 to 0.0225)", "0.002150 (0.001206 to 0.003225)")
    table = EvaluationTable(
        "", ("", "from", "passes", "output error", "transition KL"), (("time group 0", *cells),)
    )
    forms = set()
    for width in range(20, 120):
        shown = Console(width=width, highlight=False), Table(box=box.SIMPLE_HEAD, pad_edge=False)
        monkeypatch.setattr(evaluate, "console_and_table", lambda shown=shown: shown)
        evaluate._print_table(table)
        printed = capsys.readouterr().out
        assert {word for cell in cells for word in cell.split()} <= set(printed.split())
        is_table = "output error:" not in printed
        assert not is_table or max(map(len, printed.splitlines())) <= width
        forms.add(is_table)
    assert forms == {False, True}


@pytest.mark.parametrize(
    ("flags", "code", "problem"),
    [
        (
            ("--samples", 4),
            2,
            "error: --samples: expected at least 8, with fewer there is no interval; got 4",
        ),
        (("--threads", -1), 2, "error: --threads: expected at least 0, got -1"),
        (("--report", "no/r.json"), 1, "error: no/r.json: expected an existing directory to write"),
        (
            ("--report", "quantized/r.json"),
            2,
            "error: quantized/r.json: expected a report outside quantized",
        ),
        (("--length", 8), 2, "error: --length: expected a masked-diffusion language model, got"),
        (("--prompts", "missing.txt"), 1, "error: missing.txt: --prompts: cannot be read"),
    ],
)
def test_what_is_refused(flags: tuple[object, ...], code: int, problem: str) -> None:
    finished = run("evaluate", *BOTH, *flags)
    assert finished.exit_code == code
    assert finished.problem().startswith(problem)


def test_a_model_that_is_not_quantized() -> None:
    finished = run("evaluate", "--model", "model", "--quantized", "model")
    assert finished.exit_code == 1
    assert "expected a checkpoint quantized by thermoq, got no thermoq.json" in finished.problem()
