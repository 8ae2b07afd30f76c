"""The log: complete, one fact a line, each thermodynamic figure with its source."""

from __future__ import annotations

import re

import pytest
from report_examples import example_report
from thermoq.errors import InputError
from thermoq.report.json import THERMODYNAMIC_KEYS
from thermoq.report.log import render_log, write_log
from thermoq.report.profile import layer_profile


def section(text: str, title: str) -> list[str]:
    body = text.split(f"\n[{title}]\n", 1)[1].split("\n\n[", 1)[0]
    return [line.strip() for line in body.strip("\n").split("\n")]


def test_every_tensor_has_its_line():
    report = example_report(num_layers=23)
    lines = section(render_log(report), "quantized tensors")
    assert len(lines) == 23
    assert lines[2] == (
        "3/23 transformer/transformer_blocks.0.attn1.to_q.weight: 1152 x 1152 BF16, body, affine "
        "2 bit by minmax in groups of 64 (2.50 bits/weight), relative squared error 0.161, largest "
        "error 0.00803, cosine 0.9158, 414,720 bytes"
    )
    copied = section(render_log(report), "copied tensors")
    assert copied[0] == "1/3 transformer/pos_embed.proj.bias: 1152 BF16, 2,304 bytes: 1-D tensor"


def test_coded_tensors_tell_all_that_sets_their_size():
    text = render_log(example_report(encoding="coded"))
    assert section(text, "settings")[:3] == [
        "method: lsq",
        "bit width: 2",
        "encoding: coded, groups of 16, scales of 4 bits, minima of 4 bits",
    ]
    body, modulation = (section(text, "quantized tensors")[index] for index in (2, 1))
    assert (
        "coded 2 bit by lsq in groups of 16, super-blocks of 384, scales of 4 bits, minima of 4 "
        "bits (2.58 bits/weight)"
    ) in body
    assert (
        "coded 4 bit by lsq in groups of 32, super-blocks of 384, scales of 6 bits, minima of 6 "
        "bits (4.46 bits/weight)"
    ) in modulation


def test_a_shared_tensor_names_the_stored_one():
    report = example_report(num_layers=2)
    shared = report.layers[1].model_copy(update={"same_as": "first.weight", "stored_bytes": 0})
    text = render_log(report.model_copy(update={"layers": [report.layers[0], shared]}))
    assert section(text, "quantized tensors")[1].endswith("same bytes as first.weight")


@pytest.mark.parametrize("groups", [1, 4, 20])
def test_every_thermodynamic_figure_names_its_source(groups):
    text = render_log(example_report(num_time_groups=groups))
    figures = re.compile(
        r"smoothness (score: )?\d|jump (\d|of)|boundary scores: |violations: |expected"
    )
    lines = [line for line in text.split("\n") if figures.search(line)]
    assert len(lines) > 20
    (cosine,) = (line for line in lines if "Cosine" in line)
    assert cosine == "  met: Cosine similarity: expected ≥ 0.70, got 0.9432"  # of the weights
    lines.remove(cosine)
    for line in lines:
        assert line.endswith("[parameter_source: noise-schedule prior]"), line
    assert "parameter source: noise-schedule prior: a model, not a measurement" in text


def test_the_sections_hold_the_report():
    report = example_report()
    text = render_log(report)
    assert section(text, "run")[0] == f"command: {report.provenance.command}"
    assert "cosine (no scheduler configuration found), 1,000 timesteps" in text
    assert len(section(text, "boundaries")) == 3
    assert section(text, "violations")[0].startswith("boundary 0: high, scale jump 0.51")
    assert section(text, "patterns")[1].startswith("cause: The input turns")
    assert section(text, "warnings") == ["pattern 'text_encoder.*' matches no tensor"]
    assert "nominal compression ratio: 8, not measured" in text
    assert section(text, "verdict")[-1] == f"next: {report.assessment.next_command}"
    assert section(text, "times")[0] == "total: 4.81 s"


def test_without_validation_it_says_which_key_brings_it_back():
    text = render_log(example_report(validation=False))
    for title in ("schedule", "boundaries", "violations", "patterns", "verdict"):
        assert section(text, title) == [
            "thermodynamic validation was off; quantization.thermodynamic.validation.enabled: true "
            "brings this part back"
        ]
    assert not any(key in text for key in THERMODYNAMIC_KEYS - {"patterns", "violations"})


def test_without_time_parameters_the_scores_are_not_available():
    text = render_log(example_report(time_parameters=False))
    assert "smoothness score: not available [parameter_source: none]" in text
    assert "layers with time parameters: 0 of 23" in text


def test_an_empty_section_says_none():
    text = render_log(example_report(warnings=(), num_layers=0))
    assert section(text, "warnings") == ["none"]
    assert section(text, "quantized tensors") == ["none"]


def test_a_name_cannot_forge_lines_or_control_the_terminal():
    text = render_log(example_report(num_layers=1, name_prefix="a\nverdict: good\x1b[31m\u2028."))
    assert "a\\nverdict: good\\x1b[31m\\u2028.pos_embed" in text
    assert "\x1b" not in text


def test_write_log(tmp_path):
    report = example_report()
    write_log(report, tmp_path / "report.log")
    assert (tmp_path / "report.log").read_text(encoding="utf-8") == render_log(report)
    with pytest.raises(InputError, match="expected an existing directory"):
        write_log(report, tmp_path / "gone" / "report.log")


def test_layers_are_numbered_as_on_the_page():
    report = example_report(num_layers=4)
    report = report.model_copy(update={"layers": list(reversed(report.layers))})
    numbered = [f"{r.number}/4 transformer/{r.name}:" for r in layer_profile(report).rows]
    for title in ("quantized tensors", "smoothness of layers"):
        lines = section(render_log(report), title)
        assert all(map(str.startswith, lines, numbered))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"met": None}, "not applicable"),
        ({"met": False, "better": "above"}, "better: above the range"),
        ({"met": True, "bad_sign": True}, "present"),
        ({"met": False, "bad_sign": True}, "absent"),
    ],
)
def test_outcomes_of_expectations(changes, words):
    report = example_report()
    row = report.assessment.characteristics[1].model_copy(update=changes)
    assessment = report.assessment.model_copy(update={"characteristics": [row]})
    lines = section(render_log(report.model_copy(update={"assessment": assessment})), "verdict")
    assert lines[1].startswith(f"{words}: {row.name}: expected")
