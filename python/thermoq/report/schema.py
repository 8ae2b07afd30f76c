"""The report's JSON Schema (draft 2020-12), generated from the model and shipped beside it.

`python -m thermoq.report.schema` writes it anew after a change of the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thermoq.report.json import THERMODYNAMIC_KEYS
from thermoq.report.model import Report

SCHEMA_FILE = Path(__file__).with_name("report.schema.json")


def report_schema() -> dict[str, Any]:
    """The schema of what `write_json` writes; the thermodynamic keys come all or none."""
    schema = Report.model_json_schema()
    schema["required"] = ["format_version", *schema["required"]]
    schema["dependentRequired"] = {
        key: sorted(THERMODYNAMIC_KEYS - {key}) for key in sorted(THERMODYNAMIC_KEYS)
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "thermoq report",
    }


def schema_text() -> str:
    """What `report.schema.json` holds."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
