"""The rehearsal with simulated people: its world, its laws, and the small tier end to end."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from tomoni.cli.app import main
from tomoni.errors import ConfigError
from tomoni.loop.rehearse_figures import bootstrap, labels_saved, mean, needed
from tomoni.loop.rehearse_protocol import FILE, protocol
from tomoni.loop.rehearse_session import session
from tomoni.loop.rehearse_value import information
from tomoni.loop.rehearse_world import Asked, Bank, Kind, Person, PersonKind

QUICK = protocol(quick=True)


@pytest.fixture(scope="module")
def curved() -> Bank:
    return QUICK.world.bank("curved", 901)


@pytest.mark.parametrize("kind", ["linear", "curved", "texts"])
def test_people_without_lapses_agree_as_often_as_the_protocol_asks(kind: Kind) -> None:
    bank = QUICK.world.bank(kind, 5)
    first, second = bank.some_pairs(20_000, np.random.default_rng(0))
    assert (bank.prompt_A[first] == bank.prompt_A[second]).all() and (first != second).all()
    assert bank.prompt_A[first].max() < bank.held_out
    p = expit(bank.gold_A[first] - bank.gold_A[second])
    rng = np.random.default_rng(1)
    agree = (rng.random(20_000) < p) == (rng.random(20_000) < p)
    assert agree.mean() == pytest.approx(0.70, abs=0.015)


def test_gold_is_a_straight_line_in_one_world_and_in_none_of_the_others() -> None:
    shares = {}
    for kind in ("linear", "curved", "texts"):
        bank = QUICK.world.bank(kind, 3)  # type: ignore[arg-type]
        first, second = bank.some_pairs(4000, np.random.default_rng(0))
        x, y = bank.phi_AD[first] - bank.phi_AD[second], bank.gold_A[first] - bank.gold_A[second]
        rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        shares[kind] = 1 - rest.var() / y.var()
    assert shares["linear"] > 0.999 and 0.3 < shares["curved"] < 0.9 and 0.3 < shares["texts"] < 0.95


def test_each_kind_of_person_answers_as_its_name_says() -> None:
    def person(kind: PersonKind) -> Person:
        return Person(kind, 0.2, 0.0, 0.0, 0.9, 50)

    def ask(kind: PersonKind, gap: float = 50.0, side: int = 1, topic: int = 1, number: int = 0) -> float:
        return person(kind).first_wins(Asked(gap, 0.0, side, topic, number))

    assert ask("crowd") == pytest.approx(0.8) and ask("reversed") == pytest.approx(0.2) and ask("random") == 0.5
    assert ask("position") == 0.9 and ask("position", side=-1) == pytest.approx(0.1)
    assert ask("topic") == pytest.approx(0.8) and ask("topic", topic=0) == pytest.approx(0.2)
    assert ask("drifting") == pytest.approx(0.8) and ask("drifting", number=200) == pytest.approx(0.5)
    kinds: tuple[PersonKind, ...] = ("crowd", "reversed", "random", "position")
    for kind in kinds:
        for side in (1, -1):
            q = person(kind).channel(side).first_wins(np.array([0.7]))[0][0]
            assert q == pytest.approx(ask(kind, gap=0.7, side=side))


def test_a_session_is_woven_as_the_product_weaves_it_and_is_the_same_for_the_same_seed(curved: Bank) -> None:
    pool = {"crowd": 3, "position": 1}
    held = session(curved, pool, 60, QUICK.people, gold_gap=3.0, seed=4)  # type: ignore[arg-type]
    again = session(curved, pool, 60, QUICK.people, gold_gap=3.0, seed=4)  # type: ignore[arg-type]
    assert [one.y for one in held.judged] == [one.y for one in again.judged] and len(held.judged) == 240
    gold = [one for one in held.judged if one.gold]
    assert len(gold) == 4 * 6  # four among a newcomer's first twenty, then one in twenty
    gaps = [
        float(curved.gold_A[a] - curved.gold_A[b])
        for (a, b), one in zip(held.pairs, held.judged, strict=True)
        if one.gold
    ]
    assert min(map(abs, gaps)) >= 3 and all((gap > 0) == one.expected for gap, one in zip(gaps, gold, strict=True))
    longer = [(one.length > 0) != (one.expected == 1) for one in gold]
    assert 0.2 < np.mean(longer) < 0.8
    seen: dict[tuple[str, str], int] = {}
    swapped = []
    for one in held.judged:
        key = (one.person, one.item)
        if key in seen and not one.gold:
            swapped.append(one.side == -seen[key])
        seen[key] = one.side
    assert len(swapped) >= 4 and np.mean(swapped) > 0.7


@pytest.mark.parametrize(("a", "at_zero"), [(0.95, 0.81), (0.87, 0.5476), (0.85, 0.49), (0.75, 0.25), (0.65, 0.09)])
def test_at_gap_zero_a_label_is_worth_the_square_of_2a_minus_1(a: float, at_zero: float) -> None:
    zero = np.zeros(1)
    assert information(zero, 1 - a)[0] / information(zero, 0.0)[0] == pytest.approx(at_zero, abs=1e-9)


def test_the_published_values_over_gaps_of_deviation_two() -> None:
    gap = np.random.default_rng(0).normal(0, 2, 400_000)
    ratio = {a: information(gap, 1 - a).mean() / information(gap, 0.0).mean() for a in (0.75, 0.85)}
    assert ratio == {0.75: pytest.approx(0.200, abs=0.003), 0.85: pytest.approx(0.413, abs=0.004)}
    easy = {a: information(np.array([2.0]), 1 - a)[0] / information(np.array([2.0]), 0.0)[0] for a in (0.75, 0.85)}
    assert easy == {0.75: pytest.approx(0.12, abs=0.006), 0.85: pytest.approx(0.29, abs=0.006)}


def test_labels_needed_are_read_between_sizes_on_a_curve_made_monotone() -> None:
    sizes = np.array([100.0, 200.0, 400.0])
    assert needed(np.array([0.6, 0.7, 0.8]), sizes, 0.75) == pytest.approx(200 * math.sqrt(2))
    assert needed(np.array([0.6, 0.7, 0.8]), sizes, 0.5) == 100
    assert needed(np.array([0.6, 0.7, 0.8]), sizes, 0.9) == math.inf
    assert needed(np.array([0.7, 0.6, 0.8]), sizes, 0.64) == 100  # pooled to .65, .65
    rising = np.array([[0.6, 0.7, 0.8]] * 4)
    assert labels_saved("", "", rising, rising, sizes, resamples=50).value == pytest.approx(1)
    faster = np.array([[0.7, 0.8, 0.9]] * 4)
    found = labels_saved("", "", faster, rising, sizes, resamples=50)
    assert found.value == pytest.approx(2) and found.low == pytest.approx(found.high)
    assert labels_saved("", "", rising - 0.3, rising, sizes, resamples=50).value == 0


def test_bootstrap_intervals_are_those_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=200)
    figure = mean("E", "x", values, resamples=4000)
    error = values.std() / math.sqrt(200)
    assert figure.value == pytest.approx(values.mean())
    assert (figure.low, figure.high) == (
        pytest.approx(values.mean() - 1.96 * error, abs=0.01),
        pytest.approx(values.mean() + 1.96 * error, abs=0.01),
    )
    assert bootstrap(lambda w: float(w.sum()), 7, resamples=20) == (7, 7)


def test_the_small_tier_runs_end_to_end_and_names_the_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert main(["rehearse", "people", "--quick", "--only", "e3,E4", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in said and "prove nothing" in said
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {figure["experiment"] for figure in found["figures"]} == {"E3", "E4"}
    assert found["protocol"] in said and all(math.isfinite(figure["value"]) for figure in found["figures"])
    by_name = {figure["name"]: figure for figure in found["figures"]}
    ours = by_name["curved: held-out accuracy, ours, 400 labels"]["value"]
    assert ours > by_name["curved: held-out accuracy, unweighted, 400 labels"]["value"]


@pytest.mark.slow
def test_blind_labels_and_choosing_run_in_the_small_tier(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "people", "--quick", "--only", "E0,E2"]) == 0
    assert "win rate after 60 labels, vopt" in capsys.readouterr().out


def test_what_is_not_there_is_refused_with_what_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "peopel"]) == 2 and 'did you mean "people"' in capsys.readouterr().err
    assert main(["rehearse", "people", "--only", "E9"]) == 2 and "E0, E2, E3, E4" in capsys.readouterr().err
    assert main(["rehearse", "people", "--world", "moon"]) == 2 and "linear, curved, texts" in capsys.readouterr().err
    assert main(["rehearse"]) == 0
    with pytest.raises(ConfigError):
        protocol(worlds=["moon"])


def test_the_page_names_the_protocol_that_is_committed() -> None:
    page = Path(__file__).parents[2] / "docs" / "science.md"
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in page.read_text(encoding="utf-8")
