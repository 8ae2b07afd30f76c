"""What to do: which dial is turned, and what the sentences say of it."""

from __future__ import annotations

from typing import Any

import pytest
from assessment_examples import figures, prior, run, violations, windows
from thermoq.assessment import assess


def test_more_time_groups_change_no_weight_and_the_action_says_so() -> None:
    (action,) = (a for a in assess(prior(0.6), run()).actions if "time groups" in a)
    assert action.endswith("Under the prior this changes the score, not the weights.")
    single = assess(figures(1.0), run(num_time_groups=1))
    (measured,) = (a for a in single.actions if "time groups" in a)
    assert measured.endswith("It changes the activation parameters, not the weights.")


def test_a_baseline_is_told_what_smoothing_would_score() -> None:
    found = assess(figures(0.72), run())
    assert found.actions == [
        "Smooth the boundaries, `--phase smooth`: with windows of 62.5 on each side of a "
        "boundary these parameters would score 0.8911 by linear, 0.8644 by cubic, 0.8211 by "
        "sigmoid. Codes "
        "and stored values stay; the score says nothing of accuracy."
    ]
    weights_first = assess(figures(0.72, relative_squared_error=0.09), run())
    assert weights_first.actions[-1].endswith("Do it once the weights are settled.")
    assert "Do it once" not in str(assess(prior(0.72), run()).actions)


def test_phases_that_a_baseline_does_not_need() -> None:
    (accuracy, export) = assess(figures(0.9), run()).actions
    assert accuracy.startswith("Phase 3 (`--phase optimize`) is there for accuracy")
    assert export.startswith("Export the dense weights")
    jumps = assess(figures(0.9, violations=violations("high")), run())
    assert "--phase smooth" in jumps.next_command


def test_under_the_prior_phases_come_after_the_calibration() -> None:
    found = assess(prior(0.72), run())
    assert "Keep this report: Phase 2 (`--phase smooth`) and Phase 3" in found.actions[-1]
    smooth = prior(0.75, phase="smooth", windows=windows(interpolation="linear"))
    again = assess(smooth, run(phase="smooth", command="quantize", carried=("--phase", "smooth")))
    assert (again.then_command or "").count("--phase smooth") == 1
    assert not any("time groups" in text for text in again.actions)


def test_where_windows_are_the_limit_fewer_groups_are_advised() -> None:
    full = windows(interpolation="linear", has_room=False, scores={"linear": 0.75})
    found = assess(figures(0.75, phase="smooth", windows=full), run(phase="smooth"))
    assert any("Lower the time groups from 4 to 2: the windows already" in a for a in found.actions)
    assert "--num-time-groups 2" in found.next_command
    room = windows(interpolation="linear", scores={"linear": 0.75})
    found = assess(figures(0.75, phase="smooth", windows=room), run(phase="smooth"))
    assert found.actions[0].startswith("Widen the windows: with windows of 125 on each side")


@pytest.mark.parametrize(("error", "bit_width", "advised"), [
    (0.09, 2, 4), (0.09, 4, 8), (0.09, 8, None), (0.04, 2, None), (None, 2, None),
])  # fmt: skip
def test_poor_weights_are_given_more_bits(
    error: float | None, bit_width: int, advised: int | None
) -> None:
    settings = run(bit_width=bit_width, trellis_fits=False)
    found = assess(figures(0.9, relative_squared_error=error), settings)
    assert (f"--bit-width {advised}" in found.next_command) == (advised is not None)
    assert any("this changes the weights" in a for a in found.actions) == (advised is not None)
    assert any("relative squared error is above 0.05" in c for c in found.causes) == (error == 0.09)


def test_rounded_weights_are_first_given_least_squares() -> None:
    """The other method may do without more bits, so it comes before them."""
    poor = figures(0.9, relative_squared_error=0.09)
    carried = ("--config", "c.yaml", "--method", "minmax", "--encoding", "affine")
    found = assess(poor, run(method="minmax", carried=carried, trellis_fits=False))
    assert found.next_command == (
        "thermoq quantize --model dream-7b --output out-int2-g4-lsq --bit-width 2 "
        "--num-time-groups 4 --method lsq --config c.yaml --encoding affine"
    )
    assert any("`thermoq quantize`, instead of by rounding" in text for text in found.actions)
    assert not any("Try INT4" in text for text in found.actions)
    # The advice after it: more bits, and a name of its own.
    again = run(
        output="out-int2-g4-lsq", carried=("--method=lsq",), command="quantize", trellis_fits=False
    )
    words = "--output out-int4-g4 --bit-width 4 --num-time-groups 4 --method=lsq"
    assert assess(poor, again).next_command == f"thermoq quantize --model dream-7b {words}"


@pytest.mark.parametrize(
    "given", [{"bit_width": 8}, {"lsq_fits": False}, {"method": "lsq"}],
)  # fmt: skip
def test_least_squares_are_not_advised_where_they_do_not_help(given: dict[str, Any]) -> None:
    settings = run(**{"method": "minmax", **given})
    found = assess(figures(0.9, relative_squared_error=0.09), settings)
    assert "--method" not in found.next_command
    good = assess(figures(0.9, relative_squared_error=0.01), run(method="minmax"))
    assert "--method" not in good.next_command


@pytest.mark.parametrize("carried", [("--scale-bits", "5"), ("--rotation", "hadamard")])
def test_what_eight_bits_refuse_is_not_advised_beside_them(carried: tuple[str, str]) -> None:
    settings = run(bit_width=4, carried=carried)
    found = assess(figures(0.9, relative_squared_error=0.09), settings)
    assert "--bit-width 8" not in found.next_command
