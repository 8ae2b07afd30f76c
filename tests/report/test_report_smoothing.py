"""Phase 2 in the report: curves, windows, and the figures of before and after."""

from __future__ import annotations

import re

import pytest
from report_examples import NUM_TIMESTEPS, calibrated_report, example_report, smoothed_report
from thermoq.interpolation import smoothed
from thermoq.report.curves import knots_of
from thermoq.report.html import render_html
from thermoq.report.log import render_log
from thermoq.report.model import Report
from thermoq.report.trajectory import scale_chart, zero_point_chart
from thermoq.report.wording import smoothing_text
from thermoq.schedule import uniform_time_groups
from thermoq.terms import INTERPOLATIONS, Interpolation


def points(path: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"(\d+) (\d+)", path)]


@pytest.mark.parametrize("window", [None, 30.0])
@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_knots_lie_on_the_schedule(kind: Interpolation, window: float | None) -> None:
    report = smoothed_report(interpolation=kind, window=window)
    knots = knots_of(report)
    assert knots is not None
    schedule = smoothed(uniform_time_groups(NUM_TIMESTEPS, 4), kind, window)
    values = [1.0, 4.0, 2.0, 3.0]
    for place, found in zip(knots.places, knots.blended(values), strict=True):
        t = (NUM_TIMESTEPS - 1) * (1 - place / 100)
        group, fraction = schedule.blend(t)
        expected = (1 - fraction) * values[group] + fraction * values[min(group + 1, 3)]
        assert found == pytest.approx(expected, abs=1e-3)  # places are rounded to 0.001 %
    assert knots.places == sorted(knots.places)
    assert len(knots.windows) == 3


def test_curves_begin_and_end_with_the_groups_own() -> None:
    report = smoothed_report()
    stepped = scale_chart(example_report())
    curved = scale_chart(report)
    assert stepped is not None
    assert curved is not None
    for before, after in zip(stepped.lines, curved.lines, strict=True):
        assert before.values == after.values
        assert points(after.path)[0] == points(before.path)[0]
        assert points(after.path)[-1][0] == 1000
        assert "H" not in after.path
        xs = [x for x, _ in points(after.path)]
        assert xs == sorted(xs)
    assert stepped.windows == []
    assert [round(w.left + w.width / 2, 1) for w in curved.windows] == [25.0, 50.0, 75.1]
    assert len(points(curved.mean_path)) == 3 * 13 + 2


def test_zero_points_are_whole_on_the_way() -> None:
    report = smoothed_report()
    chart = zero_point_chart(report)
    knots = knots_of(report)
    assert chart is not None
    assert knots is not None
    parameters = report.layers[1].time_parameters
    assert parameters is not None
    found = knots.zero_points(parameters, report.activation_bits)
    assert found == [round(value) for value in found]
    assert (found[0], found[-1]) == (parameters.zero_point[0], parameters.zero_point[-1])
    assert len({*found}) > 8


def test_boundaries_without_a_window_stay_steps() -> None:
    report = smoothed_report()
    thermodynamics = report.thermodynamics
    assert thermodynamics is not None
    assert thermodynamics.smoothing is not None
    some = thermodynamics.smoothing.model_copy(update={"windows": [50.0, 0.0, 0.0]})
    report = report.model_copy(
        update={"thermodynamics": thermodynamics.model_copy(update={"smoothing": some})}
    )
    knots = knots_of(report)
    assert knots is not None
    assert [w.boundary_idx for w in knots.windows] == [0]
    at = knots.group.index(1)
    assert knots.places[at] == knots.places[at + 1]
    assert knots.fraction[at : at + 2] == [0.0, 1.0]


def test_piecewise_constant_reports_have_no_knots() -> None:
    assert knots_of(example_report()) is None
    assert knots_of(example_report(validation=False)) is None


def test_the_page_shows_windows_and_both_scores() -> None:
    text = render_html(smoothed_report(window=400.0))
    assert text.count('<rect class="window"') == 6  # two charts of three boundaries
    assert "Curves of 23 layers" in text
    assert "Step lines of" not in text
    assert "by cubic interpolation. A window of 400 was asked for; at 3 boundaries half" in text
    assert "Phase 1: 0.6543, 2 violations" in text
    assert "Score between time groups</dt><dd>0.7012" in text
    assert "Violations in single layers</dt><dd>5, in Phase 1 17" in text
    assert "one of 50 sampling steps crosses there, 20 timesteps apart" in text


@pytest.mark.parametrize("report", [example_report(), calibrated_report()])
def test_the_page_of_phase_1_speaks_of_no_smoothing(report: Report) -> None:
    text = render_html(report)
    assert 'class="window"' not in text
    assert "Phase 1: " not in text
    assert "interpolation" not in text.split("</style>")[1]


def test_the_log_has_both() -> None:
    text = render_log(smoothed_report())
    assert "Within 62.5 timesteps on each side of a boundary, parameters move from" in text
    assert "smoothness score between time groups: 0.7012 [parameter_source" in text
    assert "Phase 1: 0.6543, 2 violations [parameter_source" in text
    assert "violations in single layers: 5, in Phase 1 17 [parameter_source" in text
    assert "Phase 1" not in render_log(example_report()).split("[patterns]")[0]


def test_windows_of_several_widths() -> None:
    thermodynamics = smoothed_report().thermodynamics
    assert thermodynamics is not None
    assert thermodynamics.smoothing is not None
    some = thermodynamics.smoothing.model_copy(update={"windows": [50.0, 0.0, 12.5]})
    assert smoothing_text(some).startswith("Within 12.5 to 50 timesteps on each side")
