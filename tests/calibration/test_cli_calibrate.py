"""`thermoq calibrate` on the command line."""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import thermoq
from calibrations import calibrated
from command_line import run, run_process, small_pipeline, succeed
from thermoq.calibration.file import read_calibration
from thermoq.calibration.matching import check_model
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.cli.console import shown_steps
from thermoq.demonstration import CALIBRATION_FILE, MODEL_FOLDER
from thermoq.report.json import read_json

PACKAGE = Path(thermoq.__file__).parent


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline that is only half there, `half`."""
    small_pipeline(tmp_path / "half")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("there")
@pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
class TestWithModels:
    """Those that need torch."""

    @pytest.fixture(autouse=True)
    def _model(self, there: Path) -> None:
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")
        from diffusers_models import dit

        dit(there / "model")

    def test_what_is_printed(self) -> None:
        flags = ["--samples", 3, "--steps", 4, "--bins", 5, "--rows", 2, "--threads", 1]
        finished = succeed("calibrate", "--model", "model", "--output", "c", *flags)
        assert finished.stderr == ""
        printed = dict(line.split(maxsplit=1) for line in finished.stdout.splitlines())
        assert printed == {
            "output": f"c, {Path('c').stat().st_size / 1e6:.2f} MB",
            "sampled": "3 samples, 4 steps (DDIMScheduler)",
            "layers": "12 layers, 9 inputs",
            "bins": "5 time bins, 2 rows each; 1 empty, as no step came there: more --steps or "
            "fewer --bins fill them",
        }
        succeed("verify", succeed_baseline("c"))
        again = run("calibrate", "--model", "model", "--output", "c", *flags)
        assert again.exit_code == 1
        assert again.problem() == "error: c: already exists; --overwrite replaces it"
        before = Path("c").read_bytes()
        flags += ["--overwrite", "--quiet", "--resume"]
        assert succeed("calibrate", "--model", "model", "--output", "c", *flags).stdout == ""
        assert Path("c").read_bytes() == before
        assert not Path("c.partial").exists()

    def test_data_and_guidance(self, there: Path) -> None:
        import numpy as np

        np.save(there / "images.npy", np.zeros((2, 8, 8), np.float32))
        flags = ["--data", "images.npy", "--mix", "0.25", "--guidance", 2, "--seed", 4]
        words = ["calibrate", "--model", "model", "--output", "c", "--samples", 4, "--steps", 2]
        printed = succeed(*words, *flags).stdout
        assert "4 samples, 2 steps, guidance 2, 25% of them data (DDIMScheduler)" in printed
        assert read_calibration("c").description.seed == 4

    def test_a_large_file_and_a_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flags = ["--samples", 1, "--steps", 2, "--bins", 2, "--rows", 1, "--threads", 1]
        words = ["calibrate", "--model", "model", "--output", "c", "--overwrite", *flags]
        printed = succeed(*words).stdout
        assert "\nbins        2 time bins, 1 row each\n" in printed
        assert "smaller" not in printed
        nbytes = Path("c").stat().st_size
        for limit, is_said in ((nbytes, False), (nbytes - 1, True)):
            module = sys.modules["thermoq.cli.calibrate"]
            monkeypatch.setattr(module, "_LARGE_BYTES", limit)
            printed = succeed(*words).stdout
            assert ("MB; fewer --rows or --bins make it smaller\n" in printed) == is_said

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_what_a_signal_leaves(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        from thermoq.calibration import plain_sampler

        monkeypatch.setattr(plain_sampler, "_MAX_BATCH", 1)
        words = ["calibrate", "--model", "model", "--output", "c", "--samples", 3, "--steps", 2]
        real, calls = plain_sampler.PlainSampler.run, []

        def stopping(*arguments: Any) -> None:
            real(*arguments)
            calls.append(1)
            if len(calls) == 2:
                signal.raise_signal(number)

        monkeypatch.setattr(plain_sampler.PlainSampler, "run", stopping)
        what = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[signal.Signals(number)]
        nothing = f"error: {what}; nothing unfinished is left behind"
        before = sorted(Path().iterdir())
        stopped = run(*words)
        assert (stopped.exit_code, stopped.problem()) == (128 + number, nothing)
        assert sorted(Path().iterdir()) == before
        calls.clear()
        stopped = run(*words, "--resume")
        assert stopped.exit_code == 128 + number
        assert stopped.problem() == (
            f"error: {what}; c.partial has the finished batches, and the same command goes on "
            "from there"
        )
        assert sorted(Path().iterdir()) == sorted([*before, Path("c.partial")])
        succeed(*words, "--resume")
        assert not Path("c.partial").exists()
        assert len(calls) == 4  # the second batch again, and the third
        Path("c").unlink()
        calls[:] = [1]
        stopped = run(*words, "--resume")  # in the first batch: no batch is finished
        assert stopped.problem() == nothing
        assert sorted(Path().iterdir()) == before

    def test_a_model_that_cannot_be_run(self) -> None:
        finished = run("calibrate", "--model", "half", "--output", "c")
        assert finished.exit_code == 1
        assert "half: diffusers" in finished.problem()
        assert not Path("c").exists()


def succeed_baseline(calibration: str) -> str:
    succeed("baseline", "--model", "model", "--output", "out", "--calibration", calibration)
    return "out"


def test_merging(there: Path) -> None:
    one = calibrated(there / "half", there / "a", seed=1)
    two = calibrated(there / "half", there / "b", seed=2)
    finished = succeed("calibrate", "--merge", "a", "b", "--output", "both")
    assert "16 samples" in finished.stdout
    merged = read_calibration("both")
    for name, found in merged.inputs.items():
        expected = one.inputs[name].count + two.inputs[name].count
        assert found.count.tolist() == expected.tolist()
    for words, code, problem in (
        (["--merge", "a", "--output", "c"], 2, "expected two or more calibration files"),
        (["--merge", "a", "b", "--output", "both"], 1, "both"),
        (["--merge", "a", "b", "--output", "c", "--steps", 3], 2, "--steps: expected no such flag"),
        (["a", "--model", "half", "--output", "c"], 2, "a: expected no file without --merge"),
        (["--output", "c"], 2, "Missing option '--model'."),
        (["--model", "half"], 2, "Missing option '--output'."),
    ):
        finished = run("calibrate", *words)
        assert finished.exit_code == code
        assert problem in finished.problem()


def test_progress_shows_step_sample_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with shown_steps(quiet=True) as progress:
        progress.start("calibrating", 6, 2)
    assert terminal.getvalue() == ""
    with shown_steps(quiet=False) as progress:
        progress.start("calibrating", 6, 2)
        progress.advance("step 3 of 6, sample 1 of 1")
    shown = terminal.getvalue()
    assert "calibrating" in shown
    assert re.search(r"step 3 of 6, sample 1 of 1.*:", shown)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("missing", ["torch", "diffusers", "transformers"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    finished = run("calibrate", "--model", "half", "--output", "c")
    assert finished.exit_code == 2
    expected = f"error: calibrate: expected the {missing} package, got none; "
    assert finished.problem() == expected + "pip install 'thermoq[torch]'"


@pytest.mark.usefixtures("there")
def test_the_demo_shows_measurements_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; from thermoq.cli.app import main; main()"
    finished = run_process("demo", command=[sys.executable, "-c", script])
    assert finished.exit_code == 0, finished.stderr
    assert all(line.startswith("warning: best: ") for line in finished.stderr.splitlines())
    assert "Phase 3 stops before the output correction" in finished.stdout
    assert read_json(Path("thermoq-demo/smooth.json")).parameter_source == "calibration"


def test_the_shipped_calibration_is_of_the_shipped_model() -> None:
    path = PACKAGE / CALIBRATION_FILE
    assert path.stat().st_size <= 5_000_000
    calibration = read_calibration(path)
    with MappedFiles() as files:
        components = open_checkpoint(PACKAGE / MODEL_FOLDER).components
        found = check_model(calibration, path, components, files)
    assert found.description.not_reached == ()
    assert (found.num_bins, found.description.num_samples) == (20, 64)
    assert len(found.description.layers) == 57
    assert len(found.inputs) == 31
    assert all((one.count > 0).all() for one in found.inputs.values())
