"""The shipped JSON Schema: up to date with the model, and true of what is written."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
from report_examples import example_report
from thermoq.report.json import THERMODYNAMIC_KEYS, to_json
from thermoq.report.schema import SCHEMA_FILE, schema_text


@pytest.fixture(scope="module")
def validator():
    text = (resources.files("thermoq.report") / "report.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_shipped_schema_is_the_models():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "the model changed: run `python -m thermoq.report.schema` and bump format_version if needed"
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_time_groups": 1},
        {"validation": False},
        {"time_parameters": False},
        {"num_layers": 0},
        {"bit_width": 8},
        {"components": ("transformer", "transformer_2")},
    ],
)
def test_reports_validate(options, validator):
    validator.validate(json.loads(to_json(example_report(**options))))


@pytest.mark.parametrize("key", ["format_version", "model_name", "layers", "provenance"])
def test_a_missing_key_does_not_validate(key, validator):
    data = json.loads(to_json(example_report(num_layers=1)))
    del data[key]
    assert not validator.is_valid(data)


@pytest.mark.parametrize("key", sorted(THERMODYNAMIC_KEYS))
def test_half_of_the_thermodynamic_part_does_not_validate(key, validator):
    data = json.loads(to_json(example_report(num_layers=1)))
    del data[key]
    assert not validator.is_valid(data)


def test_an_unknown_key_or_a_wrong_type_does_not_validate(validator):
    data = json.loads(to_json(example_report(num_layers=1)))
    assert not validator.is_valid({**data, "surprise": 1})
    assert not validator.is_valid({**data, "bit_width": "2"})
    assert not validator.is_valid({**data, "format_version": 2})
