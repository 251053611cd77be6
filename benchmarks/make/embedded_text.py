"""Make the texts that are embedded in the package: compress/zoo/text.

Usage, from the root of the repository:
    python -m benchmarks embedded-text --sst2 FOLDER --sts FOLDER --sick FOLDER --shakespeare FILE --multi30k FOLDER

Sources: SST-2 (train.tsv and dev.tsv, sentence TAB label), STS 2012 to 2014 (`YEAR/NAME.{train,test}.tsv`, score TAB
sentence TAB sentence), SICK (SICK_train.txt, SICK_trial.txt), tinyshakespeare (input.txt), Multi30k (train and
test_2016_flickr, each .de.gz and .en.gz). Same sources, same bytes (given the same zlib).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path

OUT = Path(__file__).parents[2] / "compress" / "zoo" / "text"
SHAKESPEARE = 400_000  # characters: the first part is for healing, the last tenth for evaluation


def write(path: Path, lines: Iterable[str]) -> None:
    """A gzip file without a time in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
    print(f"{path.relative_to(OUT)}: {path.stat().st_size:,} bytes")


def table(path: Path) -> list[list[str]]:
    """The cells of a file of tab-separated values."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [[cell.strip() for cell in row] for row in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]


def sst2(folder: Path) -> None:
    """Labels by name, as the classifiers of this data set have them."""
    names = {"0": "negative", "1": "positive"}
    for source, name in (("train", "train"), ("dev", "test")):
        rows = table(folder / f"{source}.tsv")
        write(OUT / "sst2" / f"{name}.tsv.gz", ["text\tlabel", *(f"{text}\t{names[label]}" for text, label in rows)])


def sts(folder: Path, sick: Path) -> None:
    """Scores from 0 to 5; SICK's, from 1 to 5, are stretched. What is healed on has neither scores nor partners."""
    pairs = ["sentence1\tsentence2\tscore\tset"]
    for path in sorted(folder.glob("*/*.test.tsv")):
        name = f"{path.parent.name}-{path.name.split('.')[0]}"
        pairs += [f"{a}\t{b}\t{float(score):g}\t{name}" for score, a, b in table(path) if score and a and b]
    for row in table(sick / "SICK_trial.txt")[1:]:
        pairs.append(f"{row[1]}\t{row[2]}\t{(float(row[3]) - 1) * 5 / 4:g}\tSICK-trial")
    write(OUT / "sts" / "test.tsv.gz", pairs)
    texts = [text for path in sorted(folder.glob("*/*.train.tsv")) for row in table(path) for text in row[1:3]]
    texts += [text for row in table(sick / "SICK_train.txt")[1:] for text in row[1:3]]
    write(OUT / "sts" / "train.txt.gz", dict.fromkeys(text for text in texts if text))


def shakespeare(file: Path) -> None:
    """Speeches, between blank lines."""
    text = file.read_text(encoding="utf-8")[:SHAKESPEARE]
    speeches = text.strip().split("\n\n")[:-1]
    cut = len(speeches) * 9 // 10
    for name, part in (("train", speeches[:cut]), ("test", speeches[cut:])):
        write(OUT / "tinyshakespeare" / f"{name}.txt.gz", ["\n\n".join(part)])


def multi30k(folder: Path) -> None:
    """Captions of photographs, German with the English that they were translated from."""
    for source, name in (("train", "train"), ("test_2016_flickr", "test")):
        sides = [gzip.decompress((folder / f"{source}.{end}.gz").read_bytes()).decode() for end in ("de", "en")]
        pairs = zip(*(side.strip("\n").split("\n") for side in sides), strict=True)
        rows = (json.dumps({"source": german, "target": english}, ensure_ascii=False) for german, english in pairs)
        write(OUT / "m30k" / f"{name}.jsonl.gz", rows)


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description="Make the embedded texts.")
    for name in ("sst2", "sts", "sick", "shakespeare", "multi30k"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    sst2(args.sst2)
    sts(args.sts, args.sick)
    shakespeare(args.shakespeare)
    multi30k(args.multi30k)


if __name__ == "__main__":
    main()
