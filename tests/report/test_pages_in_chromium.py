"""The report's and the comparison's page as a browser shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import seen_in
from comparison_examples import judged, language_evaluation, phase_reports, timed, write_reports
from report_examples import calibrated_report, smoothed_report
from thermoq.comparison.run import compare
from thermoq.report.comparison_page import render_comparison
from thermoq.report.comparison_wording import NOTHING
from thermoq.report.html import render_html


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reports")
    reports = phase_reports()
    language = [r.model_copy(update={"evaluation": language_evaluation()}) for r in reports]
    seen = [
        r.model_copy(update={"evaluation": timed(judged(r.evaluation, 0.9, 0.5), 1.1)})
        for r in reports
    ]
    crowd = phase_reports(num_time_groups=20)
    fast = {"steps": 5, "inputs_key": "other"}
    unlike = [r.model_copy(update={"parameter_source": "none"}) for r in reports]
    unlike[0] = reports[0]
    unlike[2] = reports[2].model_copy(
        update={"evaluation": reports[2].evaluation.model_copy(update=fast)}
    )
    found = {
        "report": render_html(calibrated_report()),
        "smoothed report": render_html(smoothed_report()),
    }
    for name, given in {
        "comparison": seen,
        "comparison of two": phase_reports(evaluated=False)[:2],
        "comparison of language models": language,
        "comparison of unlike": unlike,
        "comparison of many": [*crowd, *crowd[1:]],
    }.items():
        found[name] = render_comparison(compare(write_reports(folder, given)))
    return found


REPORTS = ("report", "smoothed report")
COMPARISONS = (
    "comparison",
    "comparison of two",
    "comparison of language models",
    "comparison of unlike",
    "comparison of many",
)

OVERFLOW = """
const wide = [];
const width = document.documentElement.clientWidth;
for (const one of document.body.querySelectorAll("*")) {
  const box = one.getBoundingClientRect();
  const inside = one.closest(".scroll, .skip, .hidden, pre, svg, title");
  if (box.width && box.right > width + 1 && !inside)
    wide.push(`${one.tagName}.${one.className} to ${box.right}`);
}
return {wide, across: document.documentElement.scrollWidth - width};
"""


@pytest.mark.parametrize("name", [*REPORTS, *COMPARISONS])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_no_layout_overflows(
    name: str, width: int, dark: bool, pages: dict[str, str], tmp_path: Path
) -> None:
    seen = seen_in(pages[name], OVERFLOW, tmp_path, width=width, dark=dark)
    assert seen == {"found": {"wide": [], "across": 0}, "troubles": [], "fetched": []}


COLOURS = """
const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => +a + +b, 0);
const style = getComputedStyle(document.body);
return [light(style.backgroundColor), light(style.color)];
"""


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_dark_is_dark(name: str, pages: dict[str, str], tmp_path: Path) -> None:
    paper, ink = seen_in(pages[name], COLOURS, tmp_path)["found"]
    assert paper > 600 > 200 > ink
    paper, ink = seen_in(pages[name], COLOURS, tmp_path, dark=True)["found"]
    assert paper < 150 < 600 < ink


MARKS = """
const drawn = (selector) => [...document.querySelectorAll(selector)].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width + box.height > 2;
}).length;
return {
  points: drawn("svg.plot > svg.mark > path"),
  lines: drawn("path.series"),
  intervals: drawn("line.interval"),
  bytes: drawn("svg.stack > rect"),
  texts: drawn("svg.plot > text"),
};
"""


@pytest.mark.parametrize(
    ("name", "points", "lines", "errors"),
    [
        ("comparison", 9 + 12, 3, 12),
        ("comparison of two", 6, 2, 0),
        ("comparison of language models", 9 + 9, 3, 9),
        ("comparison of unlike", 9 + 8, 3, 8),
        ("comparison of many", 95 + 20, 5, 20),
    ],
)
def test_charts_of_a_comparison_have_marks(
    name: str, points: int, lines: int, errors: int, pages: dict[str, str], tmp_path: Path
) -> None:
    found = seen_in(pages[name], MARKS, tmp_path)["found"]
    assert (found["points"], found["lines"], found["intervals"]) == (points, lines, errors)
    assert found["bytes"] >= 2 * lines
    assert found["texts"] >= 8


REPORT_MARKS = """
return ["line.bar", "path.line", ".heat rect", "svg.stack > rect", ".strip path"].map(
  (selector) => document.querySelectorAll(selector).length);
"""


def test_charts_of_a_report_have_marks(pages: dict[str, str], tmp_path: Path) -> None:
    assert all(seen_in(pages["report"], REPORT_MARKS, tmp_path)["found"])


SORT = """
const table = document.getElementById("%s");
const keys = () => [...table.tBodies[0].rows].map((row) => row.cells[%d].dataset.value
  ?? row.cells[%d].textContent.trim());
const button = table.tHead.rows[0].cells[%d].querySelector("button");
const before = keys();
button.click();
const ascending = keys();
button.click();
return {before, ascending, descending: keys(),
  state: table.tHead.rows[0].cells[%d].getAttribute("aria-sort")};
"""


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        ("comparison", "comparison-table", 2),
        ("comparison", "figures-table", 3),
        ("comparison", "figures-table", 5),
        ("report", "layer-table", 9),
    ],
)
def test_tables_sort(
    name: str, table: str, column: int, pages: dict[str, str], tmp_path: Path
) -> None:
    script = SORT % (table, column, column, column, column)
    found = seen_in(pages[name], script, tmp_path)["found"]
    shown = {key: [number(text) for text in found[key]] for key in ("ascending", "descending")}
    there = [value for value in shown["ascending"] if value != NOTHING]
    assert len(set(there)) > 1
    assert there == sorted(there)
    assert shown["ascending"][: len(there)] == there  # what is missing comes last
    assert [value for value in shown["descending"] if value != NOTHING] == there[::-1]
    assert sorted(found["ascending"]) == sorted(found["before"])
    assert found["state"] == "descending"
