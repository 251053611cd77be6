"""One ReportData for CI: JUnit XML and SARIF. Deterministic."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verification.report.cases import cases
from compress.verification.report_data import ReportData
from targets.errors import printable

_ILLEGAL_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(data: ReportData) -> str:
    """JUnit XML, one test case per check. A check that was not run is an error: skipped tests look green."""
    every = cases(data)
    failures = sum(case.status is Status.FAIL for case in every)
    errors = sum(case.status in (Status.ERROR, Status.NOT_RUN) for case in every)
    counts = {"tests": str(len(every)), "failures": str(failures), "errors": str(errors), "skipped": "0"}
    root = ElementTree.Element("testsuites", {"name": "edgepress", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(f"{data.model} on {data.target}"), **counts})
    for case in every:
        element = ElementTree.SubElement(suite, "testcase", {"classname": "edgepress.verify", "name": _xml(case.name)})
        if case.status is Status.PASS:
            ElementTree.SubElement(element, "system-out").text = _xml(case.message)
            continue
        tag = "failure" if case.status is Status.FAIL else "error"
        ElementTree.SubElement(element, tag, {"type": case.status.value, "message": _xml(case.message)})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def to_sarif(data: ReportData, location: Path | None = None) -> str:
    """SARIF 2.1.0: one result per check that did not pass, placed at `location`, a file of the repository such as
    gate.toml; nowhere if it is not below the working folder."""
    every = cases(data)
    failed = [case for case in every if case.status is not Status.PASS]
    rules = sorted({case.rule for case in every})
    place = _below_here(location) if location is not None else None
    physical = {"artifactLocation": {"uri": place, "uriBaseId": "%SRCROOT%"}, "region": {"startLine": 1}}
    places = [{"physicalLocation": physical}] if place is not None else []
    results = [
        {
            "ruleId": case.rule,
            "ruleIndex": rules.index(case.rule),
            "level": "error",
            "kind": "fail",
            "message": {"text": case.message},
            "locations": places,
            "partialFingerprints": {"check/v1": f"{Path(data.model).name}/{data.target}/{case.name}"},
            "properties": {"status": case.status.value, "check": case.name},
        }
        for case in failed
    ]
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "edgepress",
                        "version": data.edgepress,
                        "rules": [_sarif_rule(rule) for rule in rules],
                    }
                },
                "invocations": [{"executionSuccessful": all(case.status is not Status.ERROR for case in every)}],
                "results": results,
            }
        ],
    }
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


def _below_here(path: Path) -> str | None:
    """A path as a relative URI, or None where it is not below the working folder."""
    relative = os.path.relpath(path)
    return None if relative.startswith("..") else urllib.parse.quote(Path(relative).as_posix())


def _sarif_rule(rule: str) -> dict[str, Any]:
    metric = METRICS.get(rule)
    what = f"the {metric.title[:1].lower()}{metric.title[1:]} of the candidate" if metric else f"the check {rule!r}"
    meets = "The worse end of its confidence interval must meet the bound of the gate" if metric else "It must pass"
    text = f"Judges {what}. {meets}; what cannot be judged does not pass."
    advice = (
        "The message says how much the bound was missed, or how many samples it takes: docs/reference/verification.md."
    )
    return {
        "id": rule,
        "shortDescription": {"text": f"Gate on {rule}"},
        "fullDescription": {"text": text},
        "help": {"text": f"{text} {advice}"},
    }


def _xml(text: str) -> str:
    return _ILLEGAL_XML.sub("\ufffd", printable(text))
