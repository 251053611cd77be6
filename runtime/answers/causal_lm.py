"""Texts in, the text that goes on from them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, as_it_comes, text_inputs
from runtime.texts.generate import DRAW
from runtime.texts.text import check_ids
from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class Continuations(TextInputs):
    """What a language model writes after each prompt."""

    options: ClassVar = ("tokens", *DRAW)
    alone: ClassVar = True

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The text after each prompt, or its token ids where prompts are given as ids."""
        return [self._one(session, prompt, wanted) for prompt in inputs]

    def flows(self, wanted: Wanted) -> bool:
        return True

    def pieces(self, session: Session, prompt: str, wanted: Wanted) -> Iterator[str]:
        """The prompt and the text after it, as it comes. Raises InputError for a prompt that cannot be used."""
        start = self.prompt_ids(prompt)
        yield prompt
        yield from as_it_comes(self.tokenizer, start, self._tokens(session, start, wanted))

    def line(self, result: Result) -> str:
        """The text."""
        return f"{result['input']}{result['text']}"

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a prompt, without the token with which a tokenizer ends a text. Raises InputError for what the
        model cannot go on from."""
        ids = self.ids_of(prompt)
        if self.tokenizer is not None and len(ids) > 1 and ids[-1] in self.spec.stop:
            ids = ids[:-1]
        check_ids(ids, self.spec.vocab_size)
        if len(ids) >= self.spec.max_length:
            self.tell_cut()
        return ids

    def tell_cut(self) -> None:
        """Raises InputError: a prompt without its end is another one."""
        raise InputError(f"the prompt fills all {self.spec.max_length} tokens that the model takes; shorten it")

    def _one(self, session: Session, prompt: str, wanted: Wanted) -> Result | InputError:
        try:
            whole = "".join(self.pieces(session, prompt, wanted))
        except InputError as error:
            return error
        return {"text": whole[len(prompt) :]}

    def _tokens(self, session: Session, ids: list[int], wanted: Wanted) -> Iterator[int]:
        from runtime.streams.stream import Stream
        from runtime.texts.generate import generate

        room = self.spec.max_length - len(ids)
        return generate(Stream(session), ids, min(wanted.tokens, room), wanted.sampling, self.spec.stop)


def open_answerer(bundle: Bundle, ids: bool) -> Continuations:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    return Continuations(**vars(text_inputs(bundle, ids)))
