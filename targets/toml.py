"""Read TOML with Python's own reader where there is one (3.11), else with a small one: tables, arrays of tables, plain
keys, one-line texts, whole and decimal numbers, booleans, arrays, inline tables. What else there is, it refuses."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, NoReturn

_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"[ \t]*(?:#[^\n]*)?")
_SPACES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TEXT = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_LITERAL = re.compile(r"'([^'\x00-\x08\x0a-\x1f]*)'")
_SIMPLE = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.:-])|true\b|false\b")


def loads(text: str) -> dict[str, Any]:
    """The table that a TOML text holds. Raises ValueError with the line of what is wrong."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    return read_simple(text)


def read_simple(text: str) -> dict[str, Any]:
    """The same without Python's reader, for the part of TOML that is listed above."""
    return _Reader(text.replace("\r\n", "\n")).document()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def document(self) -> dict[str, Any]:
        root: dict[str, Any] = {}
        table, defined = root, set[str]()
        while self.skip(_SPACES) and self.at < len(self.text):
            if self.take("[["):
                name = self.key()
                self.want("]]")
                rows = root.setdefault(name, [])
                if not isinstance(rows, list) or name in defined:
                    self.fail(f"{name} is a table and a list of tables")
                rows.append(table := {})
            elif self.take("["):
                name = self.key()
                self.want("]")
                if name in root:
                    self.fail(f"{name} stands twice")
                defined.add(name)
                root[name] = table = {}
            else:
                self.pair(table)
                defined |= root.keys() if table is root else set()
            self.skip(_SPACE)
            if self.at < len(self.text) and not self.take("\n"):
                self.fail("more than one thing on a line")
        return root

    def pair(self, table: dict[str, Any]) -> None:
        name = self.key()
        self.want("=")
        if name in table:
            self.fail(f"{name} stands twice")
        table[name] = self.value()

    def value(self) -> Any:
        self.skip(_BLANK)
        if self.take("["):
            return self.array()
        if self.take("{"):
            return self.inline_table()
        for pattern in (_TEXT, _SIMPLE):
            if self.text.startswith('"""', self.at):
                break
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                try:
                    return json.loads(found[0].removeprefix("+"))
                except ValueError:
                    self.fail("a text or number of another kind")
        if (found := _LITERAL.match(self.text, self.at)) and not self.text.startswith("'''", self.at):
            self.at = found.end()
            return found[1]
        self.fail("not a value that this reader knows")

    def array(self) -> list[Any]:
        found: list[Any] = []
        while self.skip(_SPACES) and not self.take("]"):
            found.append(self.value())
            self.skip(_SPACES)
            if not self.take(","):
                self.want("]")
                break
        return found

    def inline_table(self) -> dict[str, Any]:
        """On one line, without a comma at its end."""
        table: dict[str, Any] = {}
        self.skip(_BLANK)
        if self.take("}"):
            return table
        self.pair(table)
        while self.skip(_BLANK) and self.take(","):
            self.pair(table)
        self.want("}")
        return table

    def key(self) -> str:
        self.skip(_BLANK)
        found = _KEY.match(self.text, self.at)
        if found is None:
            self.fail("a plain key is missing")
        self.at = found.end()
        return found[0]

    def skip(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return True

    def take(self, text: str) -> bool:
        there = self.text.startswith(text, self.at)
        self.at += len(text) if there else 0
        return there

    def want(self, text: str) -> None:
        self.skip(_BLANK)
        if not self.take(text):
            self.fail(f"{text!r} is missing")

    def fail(self, problem: str) -> NoReturn:
        line = self.text.count("\n", 0, self.at) + 1
        raise ValueError(f"{problem} (at line {line})")
