"""Small changes of Python code: of a comparison, an operator, a number, a truth value, or a dropped `not`.

Texts and annotations are left alone, and so are assertions, which hold in any case, and examples of options.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


def changes(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, what is changed) of each change that can be made."""
    found = ((getattr(node, "lineno", 0), _change(copy.deepcopy(node))) for node in _code(tree))
    return [(line, what) for line, what in found if what is not None]


def changed(tree: ast.Module, place: int) -> ast.Module:
    """The tree with one of its `changes`, made in place."""
    able = (node for node in _code(tree) if _change(copy.deepcopy(node)) is not None)
    _change(next(itertools.islice(able, place, None)))
    return tree


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, texts and what only texts are made of, assertions and examples."""
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert) or not isinstance(
                child, ast.AST
            ):
                continue
            if isinstance(child, ast.keyword) and child.arg == "examples":
                continue
            if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                continue
            yield child
            yield from _code(child)


def _change(node: ast.AST) -> str | None:
    """Change a node in place; what was done, or None where nothing can be."""
    before = ast.unparse(node) if isinstance(node, ast.expr) else ""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
        node.ops[0] = _COMPARED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _COUNTED and not _is_text(node):
        node.op = _COUNTED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1
    else:
        return None
    after = ast.unparse(node) if isinstance(node, ast.expr) else type(node.op).__name__  # type: ignore[attr-defined]
    return f"{before} -> {after}"


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    sides = [node.value] if isinstance(node, ast.AugAssign) else [node.left, node.right]
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)
