"""Phase 3 in the reports: choices, bytes, errors and what they say of time groups."""

from __future__ import annotations

from typing import Any

import pytest
from report_examples import example_report
from thermoq.report.html import render_html
from thermoq.report.json import read_json, write_json
from thermoq.report.log import render_log
from thermoq.report.model import Report
from thermoq.report.optimization_model import (
    LayerOptimization,
    OptimizationSummary,
    RowChoiceTotal,
    SequentialSummary,
    StoredCorrection,
)
from thermoq.report.optimization_wording import choices_text, choices_verdict, coupling_text
from thermoq.terms import ROW_CHOICES, RowChoice


def summary(counts: tuple[int, int, int], **changed: Any) -> OptimizationSummary:
    usual: dict[str, Any] = {
        "coupling": 1.0,
        "gain_estimator": "unbiased",
        "num_layers": sum(counts),
        "row_choices": [
            RowChoiceTotal(row_choice=choice, num_layers=count, stored_bytes=64 * count)
            for choice, count in zip(ROW_CHOICES, counts, strict=True)
        ],
        "fallback_rows": 3,
        "row_values": 2048,
        "output_errors": {"none": 0.04, "pooled": 0.031, "per_time_group": 0.02},
        "output_corrections": [
            StoredCorrection(component="transformer", kind="channel", num_bins=20, stored_bytes=200)
        ],
    }
    return OptimizationSummary(**{**usual, **changed})


def layer(choice: RowChoice, errors: dict[RowChoice, float]) -> LayerOptimization:
    return LayerOptimization(
        row_choice=choice,
        held_out_errors=errors,
        output_errors=errors,
        fallback_rows=3 if choice != "none" else 0,
        row_values=512 if choice != "none" else 0,
        searched_groups=2,
        log_scale_tau_squared=0.01,
        zero_point_tau_squared=None,
        gain_tau_squared=0.00125 if choice != "none" else None,
    )


def optimized_report() -> Report:
    report = example_report(num_layers=6)
    errors: dict[RowChoice, float] = {"none": 0.051, "pooled": 0.0412, "per_time_group": 0.0333}
    kinds = [*(layer(choice, errors) for choice in ROW_CHOICES), layer("none", {}), None, None]
    layers = [
        row.model_copy(update={"optimization": kind, "time_parameter_bytes": 2060 if kind else 0})
        for row, kind in zip(report.layers, kinds, strict=True)
    ]
    sizes = report.sizes.model_copy(
        update={"time_parameter_bytes": 4 * 2060 + 200, "output_correction_bytes": 200}
    )
    changed = {"phase": "optimize", "layers": layers, "sizes": sizes}
    return report.model_copy(update={**changed, "optimization": summary((2, 1, 1))})


def test_it_is_written_and_read(tmp_path) -> None:
    write_json(optimized_report(), tmp_path / "r.json")
    assert read_json(tmp_path / "r.json") == optimized_report()


def test_the_log_has_all_of_it() -> None:
    log = render_log(optimized_report())
    assert log.startswith("thermoq 0.1.0: optimize of ")
    section = log.split("[optimization]\n")[1].split("\n\n")[0].splitlines()
    share = 100 * 8440 / optimized_report().sizes.model_bytes
    assert section[0] == f"  time parameters: 8,440 bytes, {share:.3g} % of the files"
    assert section[1:] == [
        "  coupling: 1",
        "  gain estimator: unbiased",
        "  row gains and biases: 1 per time group, 1 pooled, 2 none, of 4 layers",
        "  Each layer has the cheapest that comes within 1 % of the best on held-out inputs.",
        "  rows left as they were: 3 of 2,048",
        "  relative squared error of outputs on held-out rows: none 0.0400, pooled 0.0310, "
        "per time group 0.0200",
        "  output correction: transformer: by channel in 20 bins, 200 bytes",
    ]
    lines = log.split("[optimization of layers]\n")[1].split("\n\n")[0].splitlines()
    assert len(lines) == 4
    told = [line.split(": ", 1)[1] for line in lines]
    errors = "held-out errors: none 0.0510, pooled 0.0412, per time group 0.0333"
    time = "2,060 bytes of time parameters"
    assert (
        f"row gains and biases pooled; {time}; {errors}; 3 of 512 rows left as they were; "
        "tau^2: log scale 0.0100, gain 0.00125"
    ) in told
    assert f"row gains and biases none; {time}; tau^2: log scale 0.0100" in told


def test_what_layers_were_fitted_to_is_said() -> None:
    run = SequentialSummary(num_samples=32, num_passes=20, num_layers=57)
    found = summary((2, 1, 1), sequential=run)
    report = optimized_report().model_copy(update={"optimization": found})
    said = "of the quantized layers before each, for 57 layers, in 20 passes of 32 samples"
    assert f"  fitted to inputs {said}\n" in render_log(report)
    assert f"<dd>{said}</dd>" in render_html(report)
    usual = "of the full-precision model, as the calibration kept them"
    assert f"<dd>{usual}</dd>" in render_html(optimized_report())


def test_the_log_of_a_baseline_has_none_of_it() -> None:
    log = render_log(example_report())
    assert "[optimization]\n  none\n" in log
    assert "[optimization of layers]\n  none\n" in log


@pytest.mark.parametrize(("each", "adds_nothing"), [(0.0307, True), (0.032, True), (0.03, False)])
def test_it_is_said_where_time_groups_add_nothing_over_all_layers(
    each: float, adds_nothing: bool
) -> None:
    errors = {"none": 0.04, "pooled": 0.031, "per_time_group": each}
    said = choices_verdict(summary((1, 2, 1), output_errors=errors))
    assert said.startswith("Each layer has the cheapest that comes within 1 %")
    assert ("Over all layers time groups add nothing to pooled gains" in said) == adds_nothing
    assert "Over all" not in choices_verdict(summary((1, 2, 1), output_errors={}))


def test_where_ranges_are_coupled_less_it_is_said() -> None:
    assert coupling_text(summary((1, 0, 0), coupling=10.0)) == "10"
    assert coupling_text(summary((1, 0, 0), coupling=10.0, weakened_layers=3)) == (
        "10, of ranges less in 3 layers, whose outputs would lose by it"
    )


def test_the_page_has_a_section() -> None:
    page = render_html(optimized_report())
    section = page.split('<section id="optimization"')[1].split("</section>")[0]
    assert '<a href="#optimization">' in page
    table = section.split('id="optimization-table"')[1]
    assert table.count("<tr>") == 1 + 4
    for text in ("0.0412", "3 of 512", "2,060", "0.00125"):
        assert text in table
    assert "transformer: by channel in 20 bins, 200 bytes" in section
    assert '<th scope="row">output correction</th>' in page
    assert 'id="optimization"' not in render_html(example_report())


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((5, 0, 0), "No layer's rows gain"),
        ((5, 3, 0), "is as good as one for each time group, in every layer."),
        ((0, 0, 3), "is better than one for the whole trajectory"),
        ((1, 1, 1), "the cheapest that comes within 1 %"),
    ],
)
def test_what_the_choices_say(counts: tuple[int, int, int], said: str) -> None:
    assert said in choices_verdict(summary(counts))
    none, pooled, each = counts
    text = choices_text(summary(counts))
    assert text.startswith(f"{each} per time group, {pooled} pooled, {none} none, of ")


def test_with_one_time_group_there_is_no_figure_per_group() -> None:
    report = optimized_report()
    errors: dict[RowChoice, float] = {"none": 0.04, "pooled": 0.031}
    report = report.model_copy(update={"optimization": summary((1, 1, 0), output_errors=errors)})
    assert "pooled 0.0310\n" in render_log(report)
    row = render_html(report).split("per time group</th>")[1].split("</tr>")[0]
    assert "0.0200" not in row
