"""The small TOML reader for Python 3.10 agrees with Python's own wherever it answers, and answers for every target."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from targets.table import FOLDER
from targets.toml import loads, read_simple

FILES = sorted(Path(str(FOLDER)).glob("*.toml"))
scalars = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f", exclude_categories=["Cs", "Cc"])),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
tables = st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), values, max_size=4)


def written(table):
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)} # told\n" for name, value in table.items())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_target_file_reads_the_same_without_pythons_own_reader(path):
    text = path.read_text(encoding="utf-8")
    assert read_simple(text) == tomllib.loads(text) == loads(text)
    assert read_simple(text.replace("\n", "\r\n")) == tomllib.loads(text)


@given(tables, tables, st.lists(tables, min_size=1, max_size=3))
def test_any_tables_read_as_pythons_own_reader_reads_them(top, table, rows):
    top = {f"top-{name}": value for name, value in top.items()}
    text = written(top) + "[one]\n" + written(table) + "".join(f"\n[[many]]\n{written(row)}" for row in rows)
    assert read_simple(text) == tomllib.loads(text)


@settings(max_examples=300)
@example("a={b=1,}")
@example("a={\nb=1}")
@example("a=[1,\n2,]")
@given(st.text("[]{}=,.\"'# \n\\a1-+_tfrue", max_size=30))
def test_whatever_it_answers_is_pythons_answer(text):
    try:
        mine = read_simple(text)
    except ValueError as refusal:
        assert "at line" in str(refusal)
        return
    assert mine == tomllib.loads(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\na = 2", "a stands twice (at line 2)"),
        ("[t]\n[t]", "t stands twice"),
        ("a = ", "not a value"),
        ("a = 1 b = 2", "more than one thing on a line"),
        ("a = [1, 2", "']' is missing"),
        ("= 1", "a plain key is missing"),
        ("a = 1979-05-27", "not a value that this reader knows"),
        ('a = """x"""', "not a value that this reader knows"),
    ],
)
def test_what_it_does_not_know_is_refused_with_its_line(text, problem):
    with pytest.raises(ValueError) as refusal:
        read_simple(text)
    assert problem in str(refusal.value)
