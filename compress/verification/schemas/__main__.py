"""`python -m compress.verification.schemas` writes the JSON schemas of gate.toml and report.json beside this file."""

from __future__ import annotations

import json
from pathlib import Path

from compress.verification.gate import Gate
from compress.verification.report_data import ReportData
from runtime.files import write_atomic


def schemas() -> dict[str, str]:
    """File name -> text of the schema."""
    tables = {
        "gate.schema.json": Gate.model_json_schema(),
        "report.schema.json": ReportData.model_json_schema(mode="serialization"),
    }
    return {name: json.dumps(table, indent=2) + "\n" for name, table in tables.items()}


if __name__ == "__main__":
    for name, text in schemas().items():
        write_atomic(Path(__file__).parent / name, text.encode())
