"""The page: self-contained, escaped, well-formed, accessible, and right about what is missing."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest
from report_examples import calibrated_report, example_report
from thermoq.errors import InputError
from thermoq.report.html import render_html, write_html
from thermoq.report.model import Characteristic
from thermoq.report.wording import TIMES

VOID = {"meta", "link", "br", "wbr", "input", "img", "hr"}
CASES = {
    "plain": {},
    "one time group": {"num_time_groups": 1},
    "two time groups": {"num_time_groups": 2},
    "twenty time groups": {"num_time_groups": 20},
    "no time parameters": {"time_parameters": False},
    "no validation": {"validation": False},
    "no violations": {"kappa_scale": 0.02},
    "no jumps": {"kappa_scale": 0},
    "one layer": {"num_layers": 1},
    "no layers": {"num_layers": 0},
    "many layers": {"num_layers": 120},
    "several components": {"components": ("transformer", "transformer_2")},
    "threshold 0": {"threshold": 0.0},
    "threshold 1": {"threshold": 1.0},
    "coded": {"encoding": "coded"},
    "long names": {"name_prefix": "a_rather_long_module_name." * 12},
    "calibrated": {"calibrated": True},
    "calibrated, one time group": {"calibrated": True, "num_time_groups": 1},
    "calibrated, one bin": {"calibrated": True, "num_time_groups": 1, "num_bins": 1},
    "calibrated, no validation": {"calibrated": True, "validation": False},
    "calibrated, none reached": {"calibrated": True, "time_parameters": False},
    "calibrated, zero inputs": {"calibrated": True, "kappa_scale": 0},
}


class Page(HTMLParser):
    """Collects what the checks need, and fails on a tag that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"script", "style"}:
            return
        self.texts.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module", params=CASES)
def page(request):
    given = dict(CASES[request.param])
    make = calibrated_report if given.pop("calibrated", False) else example_report
    return Page(render_html(make(**given)))


def test_ids_are_unique_and_every_reference_is_there(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        target = attributes.get("href") or ""
        assert not target or (target.startswith("#") and target[1:] in ids)


def test_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "srcset", "action", "data", "poster", "style-src"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)


def test_headings_descend_one_level_at_a_time(page):
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_landmarks_language_and_viewport(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("nav")) == len(page.all("footer")) == 1
    metas = {attributes.get("name"): attributes.get("content") for attributes in page.all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"] == "light dark"
    skip = next(attributes for attributes in page.all("a") if attributes.get("class") == "skip")
    assert skip["href"] == "#content"


def test_every_chart_has_a_title_and_a_description(page):
    charts = [attributes for attributes in page.all("svg") if "viewbox" not in attributes]
    for attributes in charts:
        assert attributes["role"] == "img"
        if "aria-label" in attributes:  # a strip in a table, which says it all in a line
            assert "inputs from" in attributes["aria-label"]
            continue
        assert len((attributes["aria-labelledby"] or "").split()) == 2
    assert charts


def test_tables_have_captions_and_header_scopes(page):
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.all("th"))
    scrollers = [a for a in page.all("div") if (a.get("class") or "").startswith("scroll")]
    for attributes in scrollers:
        assert attributes["tabindex"] == "0"
        assert attributes["role"] == "region"


def test_no_missing_value_shows(page):
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|Undefined", page.text.replace("None:", ""))


def section(page_text: str, name: str) -> str:
    return page_text.split(f'<section id="{name}"', 1)[1].split("</section>", 1)[0]


def test_verdict_and_next_command_come_first():
    report = example_report()
    text = render_html(report)
    page = Page(text)
    assert page.headings[0] == (1, "dit-xl-example")
    assert page.headings[1] == (2, report.assessment.title)
    assert page.headings[2] == (3, "Next command")
    assert report.assessment.next_command in page.text
    assert '<span class="word">--bit-width</span> <span class="word">2</span>' in text


def test_headline_figures():
    text = Page(render_html(example_report())).text
    for words in (
        "Smoothness score 0.8390 excellent, from noise-schedule prior",
        "Violations 2 of 3 boundaries jump above 0.3, from noise-schedule prior",
        "Cosine similarity 0.9531",
        "Squared error 0.0916",
        f"Compression 5.07 {TIMES} on disk; nominal 8{TIMES}",
        "Model size 28.8 MB from 146 MB",
        "Bits per weight 3.16 3.16 with copied tensors, 3.25 whole directory",
    ):
        assert words in text


@pytest.mark.parametrize(
    "name", ["expectations", "boundaries", "patterns", "trajectory", "profile", "layers"]
)
def test_the_source_stands_beside_the_thermodynamic_figures(name):
    text = render_html(example_report())
    assert "noise-schedule prior: a model, not a measurement" in section(text, name)


@pytest.mark.parametrize("name", ["boundaries", "trajectory", "profile"])
def test_each_chart_has_its_numbers_as_a_table(name):
    part = section(render_html(example_report()), name)
    assert part.count("Numbers as a table") == part.count("<figure>") == 1


def test_the_numbers_are_the_reports():
    report = example_report()
    boundaries = section(render_html(report), "boundaries")
    for row in report.thermodynamics.boundaries:
        assert (
            f'<td class="n">{row.score:.4f}</td><td class="n">{row.scale_jump:.4f}</td>'
            in boundaries
        )
    layers = Page("<section" + section(render_html(report), "layers") + "</section>").text
    for row in report.layers:
        assert row.name in layers


def test_patterns_have_cause_impact_and_advice():
    part = section(render_html(example_report()), "patterns")
    assert re.findall("<dt>(.*?)</dt>", part) == ["Cause", "Impact", "Advice"]
    assert "<code>--num-time-groups 8</code>" in part


def test_characteristics_are_met_or_not_in_words():
    part = section(render_html(example_report()), "expectations")
    assert part.count("</span> met</span>") == 3
    assert part.count("</span> not met</span>") == 1
    assert part.count('<span class="outcome neutral">better: above the range</span>') == 1


def test_signs_of_a_poor_baseline_are_present_or_absent():
    report = example_report()
    rows = [
        Characteristic(name=name, expected="", actual="", met=met, bad_sign=True)
        for name, met in (("one", True), ("two", False))
    ]
    rows.append(Characteristic(name="three", expected="", actual=""))
    assessment = report.assessment.model_copy(update={"characteristics": rows})
    part = section(
        render_html(report.model_copy(update={"assessment": assessment})), "expectations"
    )
    assert '<span class="outcome bad"><span aria-hidden="true">✗</span> present' in part
    assert '<span class="outcome good"><span aria-hidden="true">✓</span> absent' in part
    assert '<span class="outcome neutral">not applicable</span>' in part


@pytest.mark.parametrize("components", [("",), ("transformer",), ("transformer", "transformer_2")])
def test_the_least_smooth_layers_are_shown_in_every_layout(components):
    report = example_report(components=components, num_layers=30)
    text = render_html(report)
    table = section(text, "profile").split("The layers with the lowest smoothness score")[1]
    assert table.split("</table>")[0].count('<a href="#layer-') == 5
    assert section(text, "trajectory").count('<path class="line worst"') == 3
    assert "least smooth layers:" in section(text, "trajectory")


def test_layers_are_sortable_only_with_scripts():
    text = render_html(example_report())
    layers = section(text, "layers")
    assert "<button" not in text.split("<script>")[0]
    assert '<form class="filter" role="search" hidden>' in layers
    assert layers.count("aria-sort=") == 1
    assert 'data-value="0.0' in layers


def test_user_text_is_escaped_everywhere():
    evil = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
    report = example_report(
        name_prefix=evil, model_name=evil, warnings=(evil,), components=(evil, "transformer")
    )
    provenance = report.provenance.model_copy(
        update={"command": evil, "input_path": evil, "cpu": evil, "times_s": {evil: 1.0}}
    )
    assessment = report.assessment.model_copy(
        update={"title": evil, "verdict": evil, "next_command": evil, "causes": [evil]}
    )
    pattern = report.patterns[0].model_copy(update={"title": evil, "advice": f"`{evil}`"})
    report = report.model_copy(
        update={"provenance": provenance, "assessment": assessment, "patterns": [pattern]}
    )
    text = render_html(report)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "alert(1)" not in text.split("<script>")[1]
    assert "49" not in text.split("<h1>")[1].split("</h1>")[0]
    assert evil in page.text


def test_without_validation_one_line_names_the_key():
    text = render_html(example_report(validation=False))
    assert "<code>quantization.thermodynamic.validation.enabled: true</code>" in text
    assert "report.html --validation --overwrite" in Page(text).text
    assert "<em>activation</em> parameters" in text
    for name in ("expectations", "boundaries", "patterns", "trajectory"):
        assert f'id="{name}"' not in text
        assert f'href="#{name}"' not in text
    body = Page(text).text
    for word in ("Smoothness", "Violations", "prior:", "Largest jump"):
        assert word not in body
    assert "Cosine similarity" in body


def test_without_time_parameters_the_page_says_so():
    body = Page(render_html(example_report(time_parameters=False))).text
    assert "not available: no layer has time parameters" in body
    assert "No layer has time parameters, so there are no jumps to show." in body
    assert "No layer has time parameters, so there is nothing to draw." in body


def test_one_time_group_is_explained():
    body = Page(render_html(example_report(num_time_groups=1))).text
    assert "One time group has no boundary: the smoothness score is 1 by definition." in body
    assert "With one time group, every layer keeps the same parameters" in body


def test_no_violation_is_said():
    body = Page(render_html(example_report(kappa_scale=0))).text
    assert "No boundary exceeds the threshold." in body
    assert "None: no boundary exceeds the threshold." in body
    assert "all zero-point jumps are 0: the prior fixes zero-points" in body
    assert "Zero-points are fixed by the prior" in body


def test_times_name_their_unit_once():
    body = Page(render_html(example_report())).text
    assert "plan0.0271 s" in body
    assert "plan s" not in body


def test_no_more_labels_than_fit_below_the_boundaries():
    for groups, labels in ((20, 19), (41, 20), (400, 20)):
        part = section(render_html(example_report(num_time_groups=groups)), "boundaries")
        assert len(re.findall('dy="30"', part)) == labels


def test_components_are_told_apart():
    report = example_report(components=("transformer", "transformer_2"), num_layers=16)
    text = render_html(report)
    assert '<th scope="col">Component</th>' in text
    assert "transformer_2/transformer_blocks.0.attn1.to_q.weight" in text


def test_shared_layers_and_layers_outside_the_headline_are_marked():
    report = example_report(num_layers=3)
    rows = list(report.layers)
    rows[1] = rows[1].model_copy(update={"same_as": rows[0].name, "stored_bytes": 0})
    rows[2] = rows[2].model_copy(update={"in_headline": False})
    part = section(render_html(report.model_copy(update={"layers": rows})), "layers")
    assert f'<span title="same bytes as {rows[0].name}">shared</span>' in part
    assert "* not part of the headline" in part


def test_copied_tensors_and_reasons_are_listed():
    part = section(render_html(example_report()), "copied")
    assert "3 tensors were copied bit for bit" in part
    assert part.count("<td>1-D tensor</td>") == 3


def test_a_large_model_stays_under_the_limit(tmp_path):
    report = example_report(
        num_layers=400, num_time_groups=20, name_prefix="model.diffusion_model.backbone."
    )
    write_html(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_a_large_calibrated_model_stays_under_the_limit():
    text = render_html(
        calibrated_report(
            num_layers=400, num_time_groups=20, name_prefix="model.diffusion_model.backbone."
        )
    )
    assert len(text) < 6_000_000
    many = render_html(calibrated_report(num_layers=100, num_time_groups=4, num_bins=400))
    assert "The numbers are too many for a page" in many


@pytest.mark.parametrize(
    "name", ["expectations", "boundaries", "patterns", "trajectory", "profile", "layers"]
)
def test_a_measurement_is_called_one(name):
    part = section(render_html(calibrated_report()), name)
    assert "calibration: measured along the trajectory" in part
    assert "prior" not in part
    assert "ectral concentration" not in part


def test_ranges_are_shown_for_calibrated_layers_alone():
    report = calibrated_report(guidance=2.0)
    part = section(render_html(report), "trajectory")
    assert part.count("<svg height=") == len(report.layers)
    assert "64 samples in 50 steps of DDIMScheduler, 20 bins, seed 3, guidance 2" in part
    assert "Measured range" not in render_html(example_report())
    none = render_html(calibrated_report(time_parameters=False))
    assert "Measured range" not in none
    assert "23 layers not reached or left out have no time parameters" in none


def test_what_to_do_after_the_next_command_stands_below_it():
    report = example_report()
    then = report.assessment.model_copy(update={"then_command": "thermoq baseline --then <b>"})
    text = render_html(report.model_copy(update={"assessment": then}))
    assert "<h3>Then</h3>" in text
    assert "--then</span>" in text
    assert "&lt;b&gt;" in text
    assert "<h3>Then</h3>" not in render_html(report)


def test_very_many_time_groups_leave_their_numbers_to_the_json():
    text = render_html(example_report(num_layers=100, num_time_groups=400))
    assert "The jumps are too many for a page" in text
    assert len(text) < 6_000_000


def test_rendering_is_repeatable():
    assert render_html(example_report()) == render_html(example_report())


def test_a_missing_directory_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="expected an existing directory"):
        write_html(example_report(num_layers=1), tmp_path / "gone" / "report.html")


def test_every_layer_tells_its_method_encoding_and_true_bits():
    coded = Page(render_html(example_report(encoding="coded"))).text
    assert "lsq, coded, groups of 16, scales of 4 bits, minima of 4 bits" in coded
    assert "lsq2coded,16/384,4+4bits2.58" in coded.replace(" ", "")
    assert "groups of 16 weights whose scales and minima are codes of 4 bits each" in coded
    affine = Page(render_html(example_report())).text
    assert "minmax, affine, groups of 64" in affine
    assert "minmax2affine,642.50" in affine.replace(" ", "")
    assert "are codes of 4 bits each" not in affine
