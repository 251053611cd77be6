"""Questions about texts with their answers: the rows of .jsonl and tables, and SQuAD's own .json files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.data.texts.rows import Row
from runtime.texts.text import is_unicode
from targets.errors import InputError

#: Keys under which the question, the text and the answers stand.
QUESTION, TEXT, ANSWERS = "question", "context", ("answers", "answer")
_FORM = 'SQuAD\'s form, {"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}, or use .jsonl'


def question_row(name: str, value: Mapping[str, Any]) -> Row | None:
    """The row of an object with a question, a text and maybe answers; None where it is none, or has a label instead."""
    plain = {str(key).strip().casefold(): one for key, one in value.items()}
    question, text = plain.get(QUESTION), plain.get(TEXT)
    if not isinstance(question, str) or not isinstance(text, str) or "label" in plain:
        return None
    given = next((plain[key] for key in ANSWERS if key in plain), None)
    answers = () if plain.get("is_impossible") is True else answers_in(given)
    fault = None
    if not question.strip() or not text.strip():
        fault = "the question or the text is empty"
    elif given is not None and answers is None:
        fault = "its answers are neither a text nor a list of texts"
    elif not all(map(is_unicode, (question, text, *(answers or ())))):
        fault = "it has half a character (\\ud800 to \\udfff)"
    return Row(name, (question.strip(), text), fault=fault, answers=answers)


def answers_in(given: Any) -> tuple[str, ...] | None:
    """The different answers in what stands under `answers`: a text, a list of texts or of objects with a text, or an
    object with a list of them; () for a question that the text does not answer, None where it is something else."""
    if isinstance(given, Mapping):
        given = given.get("text")
    if isinstance(given, str):
        given = [given] if given.strip() else []
    if not isinstance(given, list):
        return None
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in given]
    if not all(isinstance(one, str) for one in texts):
        return None
    return tuple(dict.fromkeys(map(str, texts)))


def squad_rows(path: Path, text: str) -> Iterator[Row]:
    """The questions of a file of SQuAD 1.1 or 2.0, named by their ids. Raises InputError for another form."""
    try:
        content = json.loads(text)
        articles = content["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for number, asked in enumerate(paragraph["qas"]):
                    row = question_row(
                        f"{path.name}:{asked.get('id', number)}", {**asked, "context": paragraph["context"]}
                    )
                    if row is None:
                        raise TypeError
                    yield row
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {str(error)[:80]}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: a .json file must have {_FORM}") from error
