"""Source texts in, the texts that a decoder writes for them out: the encoder runs once a source, the decoder step by
step, with beam search or greedily."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, as_it_comes, text_inputs
from runtime.bundles.manifest import DECODER, ENCODER, GROWING
from runtime.ort import CPU
from runtime.states import BATCH, SOURCE_MASK, of_source
from runtime.texts.search import Written, greedy, search
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
#: Texts that are written at once on a CPU, beams counted, and the bytes that all of them may keep.
ROWS, KEPT = 128, 64 << 20


@dataclass(frozen=True)
class Translations(TextInputs):
    """What an encoder-decoder writes for each source. `bundle`: of the decoder; `writer`: the tokenizer of what it
    writes; `singles`: sessions on one thread, by their files."""

    bundle: Bundle | None = None
    writer: Tokenizer | None = None
    singles: dict[str, Session] = field(default_factory=dict)
    options: ClassVar = ("tokens", "beams", "top")
    alone: ClassVar = False

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
        together = max(1, self._rows(session, wanted) // self._beams(wanted))
        order = sorted(ids, key=lambda at: -len(ids[at]))
        batches = [order[start : start + together] for start in range(0, len(order), together)]
        written = self._written(session, [[ids[at] for at in batch] for batch in batches], wanted)
        for at, texts in zip(order, chain.from_iterable(written), strict=True):
            said = [{"text": self._text(one.ids), "score": round(one.score, 4)} for one in texts]
            results[at] = {**said[0], "others": said[1:]} if wanted.top > 1 else dict(said[0])
        return [results[at] for at in range(len(inputs))]

    def flows(self, wanted: Wanted) -> bool:
        """With one beam; with more of them the text may change until it ends."""
        return self._beams(wanted) == 1

    def pieces(self, session: Session, prompt: str, wanted: Wanted) -> Iterator[str]:
        """The text for one source as it comes. Raises InputError for a source of no use."""
        rows = self._begun(self.encoder, session, [self.ids_of(prompt)], 1)
        pieces = as_it_comes(self.writer, [], greedy(rows, self.target, self.spec.stop, self._longest(wanted)))
        yield next(pieces, "").lstrip()
        yield from pieces

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
        rows = self._begun(encoder, decoder, sources, self._rows(decoder, wanted))
        beams, longest = self._beams(wanted), self._longest(wanted)
        return search(rows, len(sources), self.target, self.spec.stop, beams, longest, wanted.top)

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

    def _begun(self, encoder: Session, decoder: Session, sources: Sequence[Sequence[int]], rows: int) -> Stream:
        """The decoder before its first token, with what it reads of the sources; it goes on to write up to `rows`
        texts."""
        from runtime.streams.stream import Stepped, Stream

        padded, (_, mask) = pad(sources, self.spec), INPUTS
        memory = {SOURCE_MASK: padded[mask], **encoder.run(padded)}
        named = [tensor.name for tensor in decoder.manifest.inputs if of_source(tensor.name)]
        stepped = replace(Stepped.of(decoder), max_batch=rows)
        return Stream(stepped, len(sources), {name: memory[name] for name in named})

    def _rows(self, session: Session, wanted: Wanted) -> int:
        """How many texts are written at once: the bundle's batch; more on a CPU, where no engine sets a limit, if what
        they keep at their longest is small."""
        if session.provider != CPU:
            return session.max_batch
        known = {BATCH: 1, GROWING: self._longest(wanted)}
        shapes = [one.shape for one in session.manifest.state]
        shapes += [one.shape for one in session.manifest.inputs if of_source(one.name)]
        sizes = (
            [known.get(size, self.spec.max_length) if isinstance(size, str) else size for size in one] for one in shapes
        )
        numbers = sum(map(prod, sizes))
        return max(session.max_batch, min(ROWS, KEPT // (4 * numbers)))

    def _longest(self, wanted: Wanted) -> int:
        """How many tokens a text may have."""
        return min(wanted.tokens, self.target.max_length)

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
