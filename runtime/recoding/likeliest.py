"""Nodes behind an ONNX file's logits that pick the likeliest tokens, so that a search is handed a few numbers a row and
not a whole vocabulary.

A message of protocol buffers goes on where bytes are appended to it: what is appended here adds to the file's graph.
"""

from __future__ import annotations

from runtime.recoding.wire import Field, message, number, written

#: How many tokens, an input that need not be given; their log-probabilities, best first, and the tokens.
COUNT, VALUES, TOKENS = "likeliest.count", "likeliest.values", "likeliest.tokens"
_FLOAT, _INT64, _INT = 1, 7, 2
#: The fields of ONNX's messages that are written here.
_MODEL_GRAPH = 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5


def appended(logits: str) -> bytes:
    """What to append to a file whose float output of that name has the logits in its last dimension. It gives no more
    tokens than there are."""
    scores, size, count = "likeliest.scores", "likeliest.size", "likeliest.found"
    nodes = [
        _node("LogSoftmax", [logits], [scores], "axis"),
        _node("Shape", [logits], [size], "start"),
        _node("Min", [COUNT, size], [count]),
        _node("TopK", [scores, count], [VALUES, TOKENS], "axis"),
    ]
    one = [number(1, 1), number(2, _INT64), message(8, COUNT.encode()), message(9, (1).to_bytes(8, "little"))]
    graph = [
        *(message(_NODE, node) for node in nodes),
        message(_INITIALIZER, written(one)),
        message(_INPUT, _value(COUNT, _INT64, [message(1, written([number(1, 1)]))])),
        message(_OUTPUT, _value(VALUES, _FLOAT)),
        message(_OUTPUT, _value(TOKENS, _INT64)),
    ]
    return written([message(_MODEL_GRAPH, written(graph))])


def _node(op: str, inputs: list[str], outputs: list[str], last: str | None = None) -> bytes:
    """A node. `last`: the attribute that says that it works on the last dimension."""
    attributes = (
        [] if last is None else [written([message(1, last.encode()), number(3, (1 << 64) - 1), number(20, _INT)])]
    )
    return written(
        [
            *(message(_NODE_INPUT, name.encode()) for name in inputs),
            *(message(_NODE_OUTPUT, name.encode()) for name in outputs),
            message(_NODE_NAME, outputs[0].encode()),
            message(_NODE_OP, op.encode()),
            *(message(_NODE_ATTRIBUTE, one) for one in attributes),
        ]
    )


def _value(name: str, kind: int, dims: list[Field] | None = None) -> bytes:
    """An input or output; without `dims` of any shape."""
    tensor = [number(1, kind), *([] if dims is None else [message(2, written(dims))])]
    return written([message(1, name.encode()), message(2, written([message(1, written(tensor))]))])
