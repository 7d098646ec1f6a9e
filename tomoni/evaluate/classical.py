"""What there was before: TF-IDF of character n-grams and a linear classifier, or the nearest known text. No torch.

Characters need no words, so the same baseline serves Japanese. Where the answers are classes a linear support vector
machine is fitted (one class against the others); where they are free, the answer of the most similar text that was
learnt is given. The model is arrays and a word list on disk; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from tomoni.errors import DataError
from tomoni.evaluate.cases import Cases

LONGEST = 4  # characters of an n-gram
RARE = 2  # n-grams of fewer texts are left out, where there are many texts
MANY = 1000
AT_ONCE = 256
BETWEEN = "\n"  # the two texts of a pair


class Classical:
    def __init__(self, vectorizer: Any, names: Sequence[str], weight: Any, bias: Any, answers: Sequence[str]) -> None:
        self.vectorizer, self.names, self.weight, self.bias = vectorizer, names, weight, bias
        self.answers = answers  # of the learnt texts, where the nearest one answers

    def answer(self, texts: Sequence[tuple[str, ...]]) -> list[str]:
        return [one for start in range(0, len(texts), AT_ONCE) for one in self._some(texts[start : start + AT_ONCE])]

    def _some(self, texts: Sequence[tuple[str, ...]]) -> list[str]:
        features = self.vectorizer.transform([BETWEEN.join(one) for one in texts])
        scores = np.asarray((features @ self.weight.T).todense() if self.answers else features @ self.weight.T)
        best = (scores if self.answers else scores + self.bias).argmax(1)
        known = self.answers or self.names
        return [known[int(index)] for index in best]


def fit(train: Cases) -> Classical:
    """Raises DataError where all answers are the same."""
    texts = [BETWEEN.join(case.texts) for case in train.cases]
    labels = [case.desired for case in train.cases]
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(
            "all answers of the training file are the same", next_step="name the file that models learnt from"
        )
    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, LONGEST),
        sublinear_tf=True,
        min_df=RARE if len(texts) >= MANY else 1,
        dtype=np.float32,
    )
    features = vectorizer.fit_transform(texts)
    if not train.classes and len(counts) > len(labels) / 4:
        return Classical(vectorizer, (), features, np.zeros(1), labels)
    machine = LinearSVC(random_state=0).fit(features, labels)
    names = [str(name) for name in machine.classes_]
    weight, bias = machine.coef_.astype(np.float32), machine.intercept_
    if len(names) == 2:  # scikit-learn keeps one row of two classes
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return Classical(vectorizer, names, weight, bias, ())


def save(model: Classical, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: int(place) for word, place in model.vectorizer.vocabulary_.items()}
    body = {"vocabulary": vocabulary, "names": list(model.names), "answers": list(model.answers)}
    (folder / "model.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    if model.answers:
        rows = model.weight.tocsr()
        arrays = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr, "shape": np.asarray(rows.shape)}
    else:
        arrays = {"weight": model.weight, "bias": model.bias}
    np.savez(folder / "model.npz", idf=model.vectorizer.idf_, **arrays)


def load(folder: Path) -> Classical:
    from scipy.sparse import csr_matrix

    body = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    with np.load(folder / "model.npz", allow_pickle=False) as file:
        arrays = dict(file)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(1, LONGEST), sublinear_tf=True, vocabulary=body["vocabulary"], dtype=np.float32
    )
    vectorizer.idf_ = arrays["idf"]
    if body["answers"]:
        shape = tuple(int(size) for size in arrays["shape"])
        weight: Any = csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        return Classical(vectorizer, (), weight, np.zeros(1), body["answers"])
    return Classical(vectorizer, body["names"], arrays["weight"], arrays["bias"], ())
