"""Metrics of tasks by other routes: scikit-learn, seqeval, SQuAD's published rules, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from tomoni.evaluate.answers import best_answer, exact_match, f1, plain
from tomoni.evaluate.calibration import calibrate, expected_error, probabilities, temperature_of
from tomoni.evaluate.classes import derived, number_stats, several_stats, single_stats
from tomoni.evaluate.spans import found_spans, span_stats
from tomoni.report import Stats
from tomoni.rows import Item, Row


@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 10**6))
def test_classes_agree_with_scikit_learn_whole_and_in_parts(count: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(count, size)), rng.integers(0, size, count)
    cut = count // 2
    parts = [
        single_stats(scores[part], labels[part], [1.0] * len(labels[part]))
        for part in (slice(0, cut), slice(cut, None))
        if len(labels[part])
    ]
    found = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    best = scores.argmax(1)
    assert found["accuracy"].value == pytest.approx(reference.accuracy_score(labels, best))
    there = sorted(set(labels.tolist()) | set(best.tolist()))
    assert derived(found)["macro_f1"] == pytest.approx(
        reference.f1_score(labels, best, average="macro", labels=there, zero_division=0)
    )
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert found["loss"].value == pytest.approx(reference.log_loss(labels, p, labels=range(size)), rel=1e-9)


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_several_classes_agree_with_scikit_learn(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(count, 3)), rng.integers(0, 2, (count, 3))
    found = several_stats(scores, labels.astype(float), [1.0] * count)
    assert found["f1"].sum / max(found["f1"].count, 1) == pytest.approx(
        reference.f1_score(labels, scores > 0, average="micro", zero_division=0)
    )
    assert found["accuracy"].value == pytest.approx(reference.accuracy_score(labels, scores > 0))


def test_numbers_are_measured_in_the_labels_own_units() -> None:
    own = np.array([100.0, 120.0, 160.0, 80.0])
    mean, spread = float(own.mean()), float(own.std())
    row = Row(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.float32))
    items = [
        Item(str(n), (row.with_(label=float((y - mean) / spread)),), about={"mean": mean, "spread": spread})
        for n, y in enumerate(own)
    ]
    guess = np.array([110.0, 120.0, 150.0, 90.0])
    found = number_stats((guess - mean) / spread, items)
    more = derived(found)
    assert found["mean_absolute_error"].value == pytest.approx(reference.mean_absolute_error(own, guess))
    assert more["pearson"] == pytest.approx(np.corrcoef(own, guess)[0, 1])
    assert more["root_mean_square_error"] == pytest.approx(reference.root_mean_squared_error(own, guess))


TAGS = ("O", "B-a", "I-a", "B-b", "I-b")


def tagged(tags: list[int], true: list[int]) -> tuple[Item, list[np.ndarray]]:
    """One character a token."""
    count = len(tags)
    text = "字" * count
    offsets = np.stack([np.arange(count), np.arange(count) + 1], 1).astype(np.int32)
    row = Row(
        np.zeros(count, dtype=np.int32),
        np.ones(count, dtype=np.float32),
        targets=np.array(true, dtype=np.int32),
        offsets=offsets,
    )
    there = found_spans([row], [np.eye(5, dtype=np.float32)[true]], text)
    item = Item("1", (row,), about={"text": text, "spans": [list(span) for span in there]})
    return item, [np.eye(5, dtype=np.float32)[tags]]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_entity_f1_agrees_with_seqeval_for_any_tags(both: list[tuple[int, int]]) -> None:
    tags, true = [one for one, _ in both], [other for _, other in both]
    item, scores = tagged(tags, true)
    found = span_stats([item], [scores], [found_spans(item.rows, scores, item.about["text"])])
    names = [[TAGS[t] for t in true]], [[TAGS[t] for t in tags]]
    for name, other in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        value = found[name].sum / found[name].count if found[name].count else 0.0
        assert value == pytest.approx(other(*names, zero_division=0)), name


@pytest.mark.parametrize(
    ("found", "right", "exact", "overlap"),
    [
        # the rules of SQuAD's evaluation script: case, punctuation and articles do not count
        ("The Denver Broncos", ["Denver Broncos"], 1, 1),
        ("denver broncos!", ["Denver Broncos", "The Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("in 1990 or so", ["1990"], 0, 2 / 5),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        # Japanese by characters: 東京都 and 東京 share two of three and two
        ("東京都", ["東京"], 0, 4 / 5),
        ("「東京」。", ["東京"], 1, 1),
        ("ﾃﾞｰﾀ", ["データ"], 1, 1),
        ("２０２４年", ["2024年"], 1, 1),
        ("2024年の春", ["2024年"], 0, 2 * 2 / (4 + 2)),
    ],
)
def test_answers_are_compared_as_squad_does_and_japanese_by_characters(
    found: str, right: list[str], exact: float, overlap: float
) -> None:
    assert exact_match(found, right) == exact
    assert f1(found, right) == pytest.approx(overlap)


def test_plain_text_has_neither_case_nor_articles_nor_punctuation() -> None:
    assert plain("The  (Big) apple, an A.") == "big apple"


def windows(*scores: list[tuple[float, float]]) -> tuple[list[Row], list[np.ndarray]]:
    """Windows of the context あいうえお: each token one character, the first stands for none."""
    rows = []
    for number, part in enumerate(scores):
        count = len(part)
        places = [(-1, -1)] + [(number * 2 + n, number * 2 + n + 1) for n in range(count - 1)]
        rows.append(
            Row(
                np.zeros(count, dtype=np.int32),
                np.ones(count, dtype=np.float32),
                targets=np.zeros(count, dtype=np.int32),
                offsets=np.array(places, dtype=np.int32),
            )
        )
    return rows, [np.array(part, dtype=np.float32) for part in scores]


def test_the_best_answer_is_the_best_pair_of_ends_in_order_in_any_window() -> None:
    rows, scores = windows([(0, 0), (1, 5), (4, 1), (0, 3)], [(-1, -1), (2, 0), (0, 2), (0, 0)])
    found = best_answer(rows, scores, "あいうえお", longest=3, always=True)
    assert (found.text, found.start, found.end) == ("いう", 1, 3)  # 4 + 3; ending before its beginning would be 4 + 5
    short = best_answer(rows, scores, "あいうえお", longest=1, always=True)
    assert short.text == "あ"  # 1 + 5


def test_no_answer_wins_only_where_it_wins_in_every_window_and_may() -> None:
    rows, scores = windows([(9, 9), (1, 1)], [(0, 0), (1, 1)])
    assert best_answer(rows, scores, "あいうえお", longest=3, always=False).text != ""
    rows, scores = windows([(9, 9), (1, 1)], [(5, 0), (1, 1)])
    assert best_answer(rows, scores, "あいうえお", longest=3, always=False).text == ""
    assert best_answer(rows, scores, "あいうえお", longest=3, always=True).text != ""


def test_the_calibration_error_is_the_gap_of_each_bin_by_its_share() -> None:
    """Two of 0.9 (one right), two of 0.3 (one right): (|0.5 - 0.9| + |0.5 - 0.3|) / 2."""
    assert expected_error([0.9, 0.9, 0.3, 0.3], np.array([1, 0, 1, 0])) == pytest.approx(0.3)


def test_a_temperature_that_was_multiplied_in_is_found_again() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(20_000, 4))
    p = probabilities(true, several=False)
    labels = np.array([rng.choice(4, p=row) for row in p])
    assert temperature_of(3 * true, labels, several=False) == pytest.approx(3, rel=0.05)
    found = calibrate(3 * true, labels, several=False)
    assert found.after < 0.02 < 0.1 < found.before
    coins = (rng.random((20_000, 2)) < probabilities(true[:, :2], several=True)).astype(float)
    assert temperature_of(0.5 * true[:, :2], coins, several=True) == pytest.approx(0.5, rel=0.05)


def test_parts_of_a_look_add_up() -> None:
    one = single_stats(np.eye(2), np.array([0, 1]), [1, 1])
    assert isinstance(one + one, Stats) and (one + one)["accuracy"].count == 4
