"""The report as one self-contained HTML page: nothing is fetched, it opens from the disk."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from thermoq.report import evaluation_wording, optimization_wording, wording
from thermoq.report.atomic import atomic_text
from thermoq.report.charts import boundary_chart, byte_bars, score_ruler
from thermoq.report.model import Report
from thermoq.report.order import full_name
from thermoq.report.profile import cell_title, layer_profile
from thermoq.report.ranges import range_chart
from thermoq.report.trajectory import scale_chart, zero_point_chart

_CODE = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][a-z-]*[a-z])")


def write_html(report: Report, path: Path) -> None:
    """Write `render_html(report)` to `path`, all of it or none. Raises InputError if it cannot."""
    atomic_text(path, render_html(report))


def render_html(report: Report) -> str:
    """The page as text. Names, paths and commands are escaped, whatever they hold."""
    profile = layer_profile(report)
    number_of = {id(row.layer): row.number for row in profile.rows}
    row_named = {full_name(row.layer): row for row in profile.rows}
    worst = report.thermodynamics.worst_layers if report.thermodynamics else []
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            thermodynamics=report.thermodynamics,
            assessment=report.assessment,
            components=list(dict.fromkeys(row.component for row in report.layers)),
            score_ruler=score_ruler(report),
            boundary_chart=boundary_chart(report),
            scale_chart=scale_chart(report),
            zero_point_chart=zero_point_chart(report),
            range_chart=range_chart(report),
            byte_bars=byte_bars(report),
            profile=profile,
            number_of=lambda layer: number_of[id(layer)],
            worst_rows=[row_named[name] for name in worst if name in row_named],
            source_text=wording.source_text(report.parameter_source),
            severity_words=wording.SEVERITY_WORDS,
            validation_key=wording.VALIDATION_KEY,
            command_with_validation=wording.with_validation(report.provenance.command),
            is_prior=report.parameter_source == "noise-schedule prior",
        )
    )


@cache
def page_environment() -> Environment:
    """Return what renders the package's templates, with the filters that they share."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "fixed": wording.fixed,
        "significant": wording.significant,
        "whole": wording.whole,
        "size": wording.size,
        "timestep": wording.timestep,
        "shape": lambda dimensions: wording.shape(dimensions, wording.TIMES),
        "duration": wording.duration,
        "step_name": wording.step_name,
        "groups": wording.groups,
        "budget_text": wording.budget_text,
        "calibration_text": wording.calibration_text,
        "other_activation_bits": wording.other_activation_bits,
        "smoothing_text": wording.smoothing_text,
        "before_text": wording.before_text,
        "scheme_text": wording.scheme_text,
        "choices_text": optimization_wording.choices_text,
        "choices_verdict": optimization_wording.choices_verdict,
        "coupling_text": optimization_wording.coupling_text,
        "correction_text": optimization_wording.correction_text,
        "sequential_text": optimization_wording.sequential_text,
        "time_bytes_text": optimization_wording.time_bytes_text,
        "short_groups": wording.short_groups,
        "plain": wording.plain,
        "shortened": wording.shortened,
        "evaluation_text": evaluation_wording.evaluation_text,
        "evaluation_tables": evaluation_wording.evaluation_tables,
        "breakable": _breakable,
        "command": _command,
        "prose": _prose,
    }
    environment.filters.update(filters)
    environment.globals.update(
        counted=wording.counted,
        outcome=wording.outcome,
        cell_title=cell_title,
        choice_words=optimization_wording.CHOICE_WORDS,
        inlined=lambda name: Markup(_template(name)),
    )
    return environment


def _template(name: str) -> str:
    """The text of a template, style sheet or script of the package, from a wheel too."""
    folder = resources.files("thermoq.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _breakable(name: str) -> Markup:
    """`name` escaped, free to break after its dots; copied text stays as it is."""
    return Markup(str(escape(name)).replace(".", ".<wbr>"))


def _command(line: str) -> Markup:
    """A command line escaped, to be broken between words rather than after `--`."""
    return Markup(" ").join(
        Markup('<span class="word">{}</span>').format(w) for w in line.split(" ")
    )


def _prose(text: str) -> Markup:
    """`text` escaped, with what stands between backticks, and any flag, set as code."""
    return Markup(
        _CODE.sub(lambda found: f"<code>{found[1] or found[2]}</code>", str(escape(text)))
    )
