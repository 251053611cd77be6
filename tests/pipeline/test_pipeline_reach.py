"""The code part of a key: every file of the project that a function may run, found in the source alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.pipeline import GraphError
from compress.pipeline.reach import Code

Write = Callable[..., set[str]]


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files of a package `far` and says which of its modules `far.start:run` reaches, by their names in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str = "run", **files: str) -> set[str]:
        for path, text in {"__init__": "", **files}.items():
            file = tmp_path / "far" / (path.replace("__of__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        function = SimpleNamespace(__module__="far.start", __qualname__=name)
        return {name.removeprefix("far.") for name in Code().reached(function)} - {"far", "start"}

    return write


def test_nothing_is_imported_to_find_it(reached: Write) -> None:
    text = "raise SystemExit('imported')"
    assert reached(__init__=text, start=f"{text}\nimport far.leaf\ndef run(): ...", leaf=text) == {"leaf"}
    assert not any(name.startswith("far") for name in sys.modules)


@pytest.mark.parametrize(
    "text",
    [
        "import far.leaf\ndef run(): ...",
        "def run():\n    from far.leaf import x",
        "def run():\n    from far import leaf",
        "def run():\n    def inner():\n        import far.leaf\n    inner()",
        "def helper():\n    import far.leaf\ndef run():\n    helper()",
        "def helper():\n    import far.leaf\nTABLE = {1: helper}\ndef run(): ...",
        "from far.register import keep\n@keep\ndef helper():\n    import far.leaf\ndef run(): ...",
        "class A:\n    def answer(self):\n        import far.leaf\ndef run(it):\n    it.answer()",
        "class A:\n    def answer(self):\n        import far.leaf\ndef run(it):\n    getattr(it, 'answer')()",
        "class A:\n    @property\n    def answer(self):\n        import far.leaf\ndef run(it):\n    it.answer",
        "class A:\n    def __call__(self):\n        import far.leaf\ndef run(it):\n    it()",
        "import lib\nclass A(lib.M):\n    def forward(self):\n        import far.leaf\ndef run(it):\n    it()",
        "import lib\nclass A(lib.M): ...\nclass B(A):\n    def forward(self):\n        import far.leaf\ndef run(): ...",
        "from far.other import f as g\ndef run():\n    g()",
        "def helper():\n    import far.leaf\ndef run():\n    [helper for helper in []]\n    helper()",
        "def helper():\n    import far.leaf\ndef run():\n    def inner(helper): ...\n    helper()",
        "def run():\n    command = ['python', '-m', 'far.leaf']",
        "def run(x=__import__):\n    if x:\n        import far.leaf",
    ],
)
def test_a_module_that_may_run_is_found(reached: Write, text: str) -> None:
    files = {"register": "def keep(f): ...", "other": "def f():\n    import far.leaf"}
    assert "leaf" in reached(start=text, leaf="x = 1", **files)


@pytest.mark.parametrize(
    "text",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import far.leaf\ndef run(): ...",
        "def helper():\n    import far.leaf\ndef run(): ...",
        "def helper():\n    import far.leaf\ndef run(helper):\n    helper + 1",
        "def helper():\n    import far.leaf\ndef run():\n    for helper in []:\n        helper + 1",
        "class A:\n    def answer(self):\n        import far.leaf\ndef run(it):\n    it.ask()",
        "def helper() -> None:\n    import far.leaf\ndef run(x: helper) -> helper: ...",
    ],
)
def test_what_cannot_run_does_not_count(reached: Write, text: str) -> None:
    assert "leaf" not in reached(start=text, leaf="x = 1")


def test_a_package_that_lists_its_folder_imports_all_that_is_in_it(reached: Write) -> None:
    listing = "from far.spec import import_all\nimport_all(__name__, list(__path__))"
    files = {"methods__of____init__": listing, "methods__of__one": "", "methods__of__two": "import far.leaf"}
    assert reached(start="def run():\n    import far.methods", leaf="", spec="def import_all(): ...", **files) >= {
        "methods",
        "methods.one",
        "methods.two",
        "leaf",
    }


def test_the_packages_around_a_module_run_before_it(reached: Write) -> None:
    assert reached(
        start="def run():\n    import far.deep.er.leaf",
        deep__of____init__="",
        deep__of__er__of____init__="import far.other",
        deep__of__er__of__leaf="",
        other="",
    ) == {"deep", "deep.er", "deep.er.leaf", "other"}


def test_files_beside_a_module_count_when_it_names_them(reached: Write, tmp_path: Path) -> None:
    (tmp_path / "far" / "pages").mkdir(parents=True)
    (tmp_path / "far" / "pages" / "one.html").write_text("<p>")
    text = "from pathlib import Path\nPAGES = Path(__file__).parent / 'pages'\ndef run(): ..."
    assert reached(start=text) == {"far/pages/one.html"}


def test_a_function_without_a_source_file_is_refused_by_name() -> None:
    with pytest.raises(GraphError, match="builtins"):
        Code().reached(len)
