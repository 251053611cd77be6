"""One ReportData as files for people and for CI."""

from __future__ import annotations

from compress.verification.report.pages import (
    append_summary,
    number_text,
    picture,
    size_text,
    span_text,
    threads_text,
    to_html,
    to_markdown,
    write_report,
)

__all__ = [
    "append_summary",
    "number_text",
    "picture",
    "size_text",
    "span_text",
    "threads_text",
    "to_html",
    "to_markdown",
    "write_report",
]
