"""A list of texts, or of pairs of texts, with labels or scores where the data has any.

S samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from compress.data.classes import (
    MOST_CLASSES,
    class_number,
    in_order,
    listed,
    match_classes,
    match_numbers,
    number_in,
    plain,
)
from compress.data.seen import fingerprint
from compress.data.texts.rows import Row
from targets.errors import InputError


@dataclass(frozen=True)
class TextDataset:
    """Made by `compress.data.load_texts`; never changes.

    `class_names`: in the order of `labels`, () without labels. `numbers`: the label as the data writes it -> its place
    among them. `notes`: what the user should know of them. `unanswered`: whether some question has no answer in its
    text.
    """

    location: Path
    rows: tuple[Row, ...]
    class_names: tuple[str, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unanswered: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """File and line of each sample."""
        return [row.name for row in self.rows]

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [S]. Raises InputError that names the samples without a label."""
        self.check_labels()
        return np.array([self.numbers[str(row.label)] for row in self.rows], np.int64)

    @cached_property
    def scores(self) -> np.ndarray:
        """float64 [S]. Raises InputError that names the samples without a score."""
        self.check_scores()
        return np.array([row.score for row in self.rows], np.float64)

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return all(row.label is not None for row in self.rows)

    def check_labels(self) -> None:
        """Raises InputError that names the samples without a label, and for labels that are not classes."""
        bare = [row.name for row in self.rows if row.label is None]
        several = [row.name for row in self.rows if row.label is None and row.labels]
        if several:
            raise InputError(
                f"{self.location}: {len(several)} of {len(self)} texts have a list of labels: {listed(several)}; a "
                "model that chooses one class needs one label for each text"
            )
        if bare:
            some = f"{len(bare)} of {len(self)} texts have no label: {listed(bare)}"
            raise InputError(f"{self.location}: {some}; give columns text and label")
        odd = [str(row.label) for row in self.rows if row.label not in self.numbers]
        if odd:
            many = f"more labels than {MOST_CLASSES} classes, such as {listed(odd, most=3)}"
            raise InputError(f"{self.location} has {many}; not a classification: which column holds the labels?")

    def check_scores(self) -> None:
        """Raises InputError that names the samples that are not pairs with a score."""
        bare = [row.name for row in self.rows if row.score is None or len(row.texts) < 2]
        if bare:
            some = f"{len(bare)} of {len(self)} are not pairs with a score: {listed(bare)}"
            raise InputError(f"{self.location}: {some}; give columns sentence1, sentence2 and score")

    def with_numbers(self) -> TextDataset:
        """A score for each sample: its label where that is a number and no score is given. Raises InputError that names
        those with neither."""
        rows = tuple(
            row if row.score is not None else replace(row, score=number_in(row.label or "")) for row in self.rows
        )
        if bare := [row.name for row in rows if row.score is None]:
            some = f"{len(bare)} of {len(self)} texts have no score: {listed(bare)}"
            raise InputError(f"{self.location}: {some}; give columns sentence1, sentence2 and score, all in numbers")
        return replace(self, rows=rows, class_names=(), numbers={})

    def check_tags(self) -> None:
        """Raises InputError that names the samples whose words have no tags."""
        bare = [row.name for row in self.rows if not row.tags and row.fault is None]
        if bare:
            some = f"{len(bare)} of {len(self)} texts have no tag for each word: {listed(bare)}"
            raise InputError(f"{self.location}: {some}; give .conll files, or .jsonl with words and tags")

    def check_questions(self, answered: bool) -> None:
        """Raises InputError that names the samples that are not questions with a text or, with `answered`, that do not
        say the answers."""
        bare = [row.name for row in self.rows if len(row.texts) < 2 or (answered and row.answers is None)]
        if bare:
            what = "a question, a text and its answers" if answered else "a question with a text"
            some = f"{len(bare)} of {len(self)} are not {what}: {listed(bare)}"
            raise InputError(
                f"{self.location}: {some}; give question, context and answers in .jsonl, in columns or as SQuAD's .json"
            )

    def check_several(self) -> None:
        """Raises InputError that names the samples of which it is not known which labels they have."""
        bare = [row.name for row in self.rows if row.labels is None]
        if bare:
            some = f"{len(bare)} of {len(self)} texts do not say their labels: {listed(bare)}"
            raise InputError(
                f"{self.location}: {some}; give a column labels (a list in .jsonl, else with commas), or a column of 0 "
                "and 1 for each label"
            )

    def fingerprints(self) -> list[tuple[int, ...]]:
        """Of each text of each sample."""
        return [tuple(fingerprint(text.encode()) for text in row.texts) for row in self.rows]

    def check(self) -> None:
        """Raises InputError that names and counts the samples that cannot be used."""
        faults = [row for row in self.rows if row.fault is not None]
        if faults:
            raise self.unusable([row.name for row in faults], str(faults[0].fault))

    def unusable(self, names: Sequence[str], first: str) -> InputError:
        """Names and counts samples that cannot be used. `first`: what is wrong with the first of them."""
        return InputError(
            f"{self.location}: {len(names)} of {len(self)} texts cannot be used: {listed(names)} (first: {first}); "
            "mend or remove them, or skip them with skip_corrupt"
        )

    def subset(self, indices: Collection[int]) -> TextDataset:
        """The data set of these samples, in this order."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))

    def singles(self) -> TextDataset:
        """Every different text alone, in the order of first use and named by it: what needs no partner and no label."""
        places: dict[str, str] = {}
        for row in self.rows:
            for text in row.texts if row.fault is None else ():
                places.setdefault(text, row.name)
        rows = tuple(Row(name, (text,)) for text, name in places.items())
        return replace(self, rows=rows, class_names=(), numbers={})

    def for_labels(self, labels: Sequence[str]) -> TextDataset:
        """This data set with a model's classes; numbers that are names of the model's are taken for these.

        Raises InputError (see `match_classes`).
        """
        if any(class_number(name) is None for name in self.numbers):
            matched = match_classes(self.location, self.class_names, labels)
            numbers = {name: matched.numbers[place] for name, place in self.numbers.items()}
            return replace(self, class_names=tuple(labels), numbers=numbers, notes=(*self.notes, *matched.notes))
        known = {plain(name): place for place, name in enumerate(labels)}
        if all(plain(name) in known for name in self.numbers):
            return replace(self, class_names=tuple(labels), numbers={one: known[plain(one)] for one in self.numbers})
        found = match_numbers(self.location, sorted(set(self.numbers.values())), labels)
        return replace(self, class_names=tuple(labels), notes=(*self.notes, *found.notes))

    def digest(self) -> str:
        """Hex digest of the content."""
        from compress.pipeline.digest import digest_of

        return digest_of(
            [
                [*row.texts, row.label, row.score, row.fault, *row.tags, row.labels, row.marks, row.answers]
                for row in self.rows
            ]
            + [list(self.class_names)]
        )


def classes_of(rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names in order and the place of each label among them; none where the labels are too many for classes.

    Whole numbers stand for themselves, however they are written (1 and 1.0), and none is left out; other names are
    sorted as people do it.
    """
    labels = {row.label for row in rows if row.label is not None}
    numbers = {label: class_number(label) for label in labels}
    whole = {label: number for label, number in numbers.items() if number is not None}
    if len(whole) < len(labels):
        names = in_order(labels)
        return (names, {name: place for place, name in enumerate(names)}) if len(names) <= MOST_CLASSES else ((), {})
    count = max(whole.values(), default=-1) + 1
    return (tuple(map(str, range(count))), whole) if count <= MOST_CLASSES else ((), {})
