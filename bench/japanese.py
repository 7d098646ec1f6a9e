"""Japanese tasks by simple methods: what a pretrained encoder has to beat. No torch.

python -m bench.japanese DATA [NAME ...]        DATA: the folder of public data sets; results in bench/results/japanese
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from bench.tasks import is_test
from tomoni.evaluate.answers import exact_match, f1
from tomoni.evaluate.cases import Case, Cases
from tomoni.evaluate.classical import fit
from tomoni.evaluate.metrics import most_frequent, wilson

RESULTS = Path(__file__).with_name("results") / "japanese"
Found = dict[str, dict[str, float]]
JAQUAD_FILES = 3  # a slice
SENTENCE_ENDS = "。．！？\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.japanese", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", help=f"default: {', '.join(MEASURED)}")
    options = parser.parse_intermixed_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.names or MEASURED:
        result = MEASURED[name](options.data)
        print(name, json.dumps(result["found"]), flush=True)
        text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    return 0


def _result(data: str, measure: str, train: int, test: int, found: Found, *, percent: bool = True) -> dict[str, Any]:
    rows = {"train": train, "test": test}
    return {"data": data, "measure": measure, "rows": rows, "percent": percent, "found": found}


# -- classes -----------------------------------------------------------------------------------------------------------


def classes(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> Found:
    """(text, class): the most frequent class, and TF-IDF of characters with a linear support vector machine."""
    cases = [tuple(Case(str(n), (text,), label) for n, (text, label) in enumerate(part)) for part in (train, test)]
    names = tuple(sorted({label for _, label in train}))
    common = most_frequent([label for _, label in train])
    said = fit(Cases(cases[0], names)).answer([case.texts for case in cases[1]])
    answers = {"most frequent class": [common] * len(test), "TF-IDF characters, linear SVM": said}
    return {
        name: asdict(wilson(sum(a == label for a, (_, label) in zip(some, test, strict=True)), len(test)))
        for name, some in answers.items()
    }


def livedoor(data: Path) -> dict[str, Any]:
    """The split of the Laboro BERT experiment, without the texts of dev that stand in train too."""
    parts = {part: list(livedoor_rows(data, part)) for part in ("train", "dev")}
    known = {text for text, _ in parts["train"]}
    test = [row for row in parts["dev"] if row[0] not in known]
    found = classes(parts["train"], test)
    return _result("Livedoor news, 9 classes, dev", "accuracy", len(parts["train"]), len(test), found)


def livedoor_rows(data: Path, part: str) -> Iterator[tuple[str, str]]:
    """Title and body, each line stripped, joined; and the class."""
    with (data / "livedoor" / f"{part}_indexed.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            path = data / "livedoor" / "text" / row["category"] / row["filename"]
            lines = path.read_text(encoding="utf-8").splitlines()[2:]
            yield "".join(line.strip() for line in lines), row["category"]


def morality(data: Path) -> dict[str, Any]:
    parts = []
    for part in ("train", "val"):
        with (data / "jcommonsensemorality" / f"data_{part}.csv").open(encoding="utf-8", newline="") as file:
            parts.append([(row["sent"], row["label"]) for row in csv.DictReader(file)])
    found = classes(*parts)
    return _result("JCommonsenseMorality, val", "accuracy", len(parts[0]), len(parts[1]), found)


# -- similarity ----------------------------------------------------------------------------------------------------------


def similarity(data: Path) -> dict[str, Any]:
    train, valid = (_lines(data / "jglue" / "jsts-v1.3" / f"{part}-v1.3.json") for part in ("train", "valid"))
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True)
    vectorizer.fit([row[side] for row in train for side in ("sentence1", "sentence2")])
    first, second = (vectorizer.transform([row[side] for row in valid]) for side in ("sentence1", "sentence2"))
    near = np.asarray(first.multiply(second).sum(1)).ravel()
    truth = np.array([row["label"] for row in valid])
    # always the mean: correlated with nothing, which counts as 0
    found = {
        "always the mean": {"value": 0.0},
        "cosine of TF-IDF characters": {"value": float(np.corrcoef(near, truth)[0, 1])},
    }
    return _result("JSTS, valid", "correlation (Pearson)", len(train), len(valid), found, percent=False)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- spans ---------------------------------------------------------------------------------------------------------------


def entities(data: Path) -> dict[str, Any]:
    """Strict entity F1 of a list of the training part's names, the longest match first; every tenth text is the test."""
    (path,) = sorted((data / "ner_wikipedia").glob("*.json"))
    rows = json.loads(path.read_text(encoding="utf-8"))
    train = [row for row in rows if not is_test(row["text"])]
    test = [row for row in rows if is_test(row["text"])]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for entity in row["entities"]:
            kinds[entity["name"]][entity["type"]] += 1
    listed = {name: kind.most_common(1)[0][0] for name, kind in kinds.items()}
    right = found = there = 0
    for row in test:
        true = {(*entity["span"], entity["type"]) for entity in row["entities"]}
        said = set(named(row["text"], listed))
        right, found, there = right + len(true & said), found + len(said), there + len(true)
    value = {"value": 2 * right / (found + there)}
    return _result(
        "ner_wikipedia, every tenth text", "entity F1", len(train), len(test), {"list of known names": value}
    )


def named(text: str, listed: dict[str, str]) -> Iterator[tuple[int, int, str]]:
    longest = max(map(len, listed))
    at = 0
    while at < len(text):
        sizes = range(min(longest, len(text) - at), 0, -1)
        size = next((size for size in sizes if text[at : at + size] in listed), 0)
        if size:
            yield at, at + size, listed[text[at : at + size]]
        at += size or 1


def questions(data: Path) -> dict[str, Any]:
    """A slice of JaQuAD: character F1 of the sentence that shares most of the question's characters (two at a time)."""
    files = sorted((data / "jaquad" / "train").glob("*.json"))[:JAQUAD_FILES]
    asked = [
        (paragraph["context"], entry["question"], [answer["text"] for answer in entry["answers"]])
        for path in files
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]
    test = [row for row in asked if is_test(row[1])]
    said = [nearest_sentence(context, question) for context, question, _ in test]
    exact = float(np.mean([exact_match(text, right) for text, (_, _, right) in zip(said, test, strict=True)]))
    overlap = float(np.mean([f1(text, right) for text, (_, _, right) in zip(said, test, strict=True)]))
    found = {"nearest sentence": {"value": overlap}, "nearest sentence, exact": {"value": exact}}
    return _result(
        f"JaQuAD, {JAQUAD_FILES} files, every tenth question", "character F1", len(asked) - len(test), len(test), found
    )


def nearest_sentence(context: str, question: str) -> str:
    wanted = {question[at : at + 2] for at in range(len(question) - 1)}
    sentences = [""]
    for letter in context:
        sentences[-1] += letter
        if letter in SENTENCE_ENDS:
            sentences.append("")
    return max(sentences, key=lambda one: len(wanted & {one[at : at + 2] for at in range(len(one) - 1)})).strip()


MEASURED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "livedoor": livedoor, "jcommonsensemorality": morality, "jsts": similarity, "ner_wikipedia": entities, "jaquad": questions,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
