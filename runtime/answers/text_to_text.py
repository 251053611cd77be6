"""Source texts in, the texts that a decoder writes for them out: the encoder runs once a source, the decoder step by
step, with beam search or greedily."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, text_inputs
from runtime.bundles.manifest import DECODER, ENCODER
from runtime.states import SOURCE_MASK, of_source
from runtime.texts.search import Written, search
from runtime.texts.text import INPUTS, TargetText, Tokenizer, pad
from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.streams.stream import Stream
    from runtime.watch import Result

#: The graph that writes.
ANSWERS = DECODER


@dataclass(frozen=True)
class Translations(TextInputs):
    """What an encoder-decoder writes for each source. `bundle`: of the decoder; `writer`: the tokenizer of what it
    writes; `singles`: sessions on one thread, by their files."""

    bundle: Bundle | None = None
    writer: Tokenizer | None = None
    singles: dict[str, Session] = field(default_factory=dict)
    options: ClassVar = ("tokens", "beams", "top")

    @cached_property
    def target(self) -> TargetText:
        assert self.spec.target is not None
        return self.spec.target

    @cached_property
    def encoder(self) -> Session:
        """The session of the encoder, opened once."""
        from runtime.session import open_session

        assert self.bundle is not None
        return open_session(self.bundle.one(ENCODER))

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The text for each source, or its token ids where sources are given as ids; several are searched at once.
        `others` are the next best texts, where the `top` ones are asked for. Raises InputError for more than beams."""
        if wanted.top > self._beams(wanted):
            raise InputError(f"--top {wanted.top} needs as many beams; give --beams {wanted.top}")
        ids: dict[int, list[int]] = {}
        results: dict[int, Result | InputError] = {}
        for at, text in enumerate(inputs):
            try:
                ids[at] = self.ids_of(text)
            except InputError as fault:
                results[at] = fault
        together = max(1, session.max_batch // self._beams(wanted))
        order = sorted(ids, key=lambda at: -len(ids[at]))
        batches = [order[start : start + together] for start in range(0, len(order), together)]
        written = self._written(session, [[ids[at] for at in batch] for batch in batches], wanted)
        for at, texts in zip(order, chain.from_iterable(written), strict=True):
            said = [{"text": self._text(one.ids), "score": round(one.score, 4)} for one in texts]
            results[at] = {**said[0], "others": said[1:]} if wanted.top > 1 else dict(said[0])
        return [results[at] for at in range(len(inputs))]

    def _written(
        self, session: Session, batches: Sequence[Sequence[Sequence[int]]], wanted: Wanted
    ) -> list[list[list[Written]]]:
        """The `top` texts of each source of each batch, best first, as token ids. Where there are several batches, each
        thread of the session writes one. Raises InputError for a source of no use."""
        if len(batches) < 2 or session.threads == 1 or self._single(session) is session:
            return [self._searched(self.encoder, session, batch, wanted) for batch in batches]
        encoder, decoder = self._single(self.encoder), self._single(session)
        with ThreadPoolExecutor(session.threads) as pool:
            return list(pool.map(lambda batch: self._searched(encoder, decoder, batch, wanted), batches))

    def _searched(
        self, encoder: Session, decoder: Session, sources: Sequence[Sequence[int]], wanted: Wanted
    ) -> list[list[Written]]:
        longest = min(wanted.tokens, self.target.max_length)
        rows = self._begun(encoder, decoder, sources)
        return search(rows, len(sources), self.target, self.spec.stop, self._beams(wanted), longest, wanted.top)

    def _single(self, session: Session) -> Session:
        """The same on one thread, opened once; itself where there is no such thing."""
        from runtime.session import on_one_thread

        path = session.model.path
        if path not in self.singles:
            self.singles[path] = on_one_thread(session)
        return self.singles[path]

    def line(self, result: Result) -> str:
        """The text, and a line for each of the next best."""
        others = result.get("others")
        return "\n".join(str(one["text"]) for one in [result, *(others if isinstance(others, list) else ())])

    def tell_cut(self) -> None:
        """Say on stderr that a source was cut."""
        print(f"note: a source is longer than {self.spec.max_length} tokens and was cut", file=sys.stderr)

    def _begun(self, encoder: Session, decoder: Session, sources: Sequence[Sequence[int]]) -> Stream:
        """The decoder before its first token, with what it reads of the sources."""
        from runtime.streams.stream import Stream

        padded, (_, mask) = pad(sources, self.spec), INPUTS
        memory = {SOURCE_MASK: padded[mask], **encoder.run(padded)}
        named = [tensor.name for tensor in decoder.manifest.inputs if of_source(tensor.name)]
        return Stream(decoder, len(sources), {name: memory[name] for name in named})

    def _beams(self, wanted: Wanted) -> int:
        return self.target.beams if wanted.beams is None else wanted.beams

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if self.writer is None else self.writer.decode(ids)


def open_answerer(bundle: Bundle, ids: bool) -> Translations:
    """Raises InputError for a bundle that is not of an encoder and a decoder, EnvironmentLacks without the `tokenizers`
    package."""
    if ENCODER not in bundle.graphs:
        raise InputError(f"{bundle.source} has no graph {ENCODER!r}, which reads the source; make the bundle again")
    read = text_inputs(bundle.one(ENCODER), ids)
    target = read.spec.target
    if target is None:
        raise InputError(f"{bundle.source} does not say what its decoder writes; make the bundle again")
    if read.tokenizer is None or target.tokenizer == read.spec.tokenizer:
        return Translations(**vars(read), bundle=bundle, writer=read.tokenizer)
    if target.tokenizer not in bundle.manifest.files:
        raise InputError(f"{bundle.source}: its manifest lists no {target.tokenizer}, so none can be trusted")
    return Translations(**vars(read), bundle=bundle, writer=Tokenizer(bundle.root / target.tokenizer, read.spec))
