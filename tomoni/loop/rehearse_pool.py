"""E4: what the reliability model saves where a third of the people are bad, and how well it tells who they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from sklearn.metrics import roc_auc_score

from tomoni.feedback import people as reliability
from tomoni.feedback.arrays import Float
from tomoni.feedback.channel import Channel
from tomoni.feedback.flags import review
from tomoni.feedback.head import Head
from tomoni.feedback.people import WINDOW, People
from tomoni.loop.rehearse_figures import Figure, labels_saved, mean
from tomoni.loop.rehearse_protocol import Protocol
from tomoni.loop.rehearse_session import Session, accuracy, session
from tomoni.loop.rehearse_world import Kind


def e4(p: Protocol) -> Iterator[Figure]:
    """The reliability model on a mixed pool."""
    part = p.e4
    sizes_N = np.array(part.sizes, dtype=np.float64)
    for kind in part.worlds:
        arms: dict[str, list[list[float]]] = {"unweighted": [], "ours": [], "oracle": []}
        auc: list[float] = []
        for seed in p.seeds:
            bank = p.world.bank(kind, seed)
            held = session(bank, part.pool, part.each, p.people, gold_gap=part.gold_gap, seed=seed)
            for arm, curve in arms.items():
                curve.append([accuracy(_arm(arm, held, n), bank, seed) for n in part.sizes])
            auc.append(_auc(reliability.fit(held.judged)))
        yield from _e4_figures(p, kind, {arm: np.array(curve) for arm, curve in arms.items()}, sizes_N, auc)


def e4_skill(p: Protocol) -> Iterator[Figure]:
    """How near the measured reliabilities are to the true ones, beside crowd-kit's where it is installed."""
    for kind in p.e4.worlds:
        errors: dict[str, list[float]] = {"ours": [], "crowd-kit": []}
        for seed in p.seeds:
            bank = p.world.bank(kind, seed)
            held = session(bank, p.e4.pool, p.e4.each, p.people, gold_gap=p.e4.gold_gap, seed=seed)
            for name, error in _skill_errors(held, reliability.fit(held.judged)).items():
                errors[name].append(error)
        for name, values in errors.items():
            if values:
                yield mean("E4", f"{kind}: error of skill (RMSE), {name}", values, resamples=p.resamples)


def _arm(arm: str, held: Session, n: int) -> Head:
    judged, channel = held.first(n)
    if arm == "ours":
        return reliability.fit(judged).head
    gold_N = np.array([one.gold for one in judged])
    delta_ND, y_N = np.array([one.delta for one in judged]), np.array([one.y for one in judged])
    # all arms know the gold pairs' answers, once each
    once: dict[str, int] = {one.item: i for i, one in enumerate(judged) if one.gold}
    known = np.array(sorted(once.values()), dtype=np.int64)
    expected = np.array([float(judged[i].expected or 0.0) for i in known])
    free = np.flatnonzero(~gold_N)
    perfect = Channel.perfect(len(known))
    seen = channel[free] if arm == "oracle" else Channel.perfect(len(free))
    both = Channel(
        np.concatenate([seen.attends_N, perfect.attends_N]),
        np.concatenate([seen.reverses_N, perfect.reverses_N]),
        np.concatenate([seen.base_N, perfect.base_N]),
        np.concatenate([seen.offset_N, perfect.offset_N]),
    )
    rows_ND = np.concatenate([delta_ND[free], delta_ND[known]])
    return Head.fit(rows_ND, np.concatenate([y_N[free], expected]), channel=both)


def _auc(found: People) -> float:
    good = [name.split()[1] == "crowd" for name in found.by_person]
    return float(roc_auc_score(good, [-one.surely_inattentive for one in found.by_person.values()]))


def _skill_errors(held: Session, found: People) -> dict[str, float]:
    """Root mean square error of max(A - F, 0); crowd-kit's skill is the chance of answering by the scores."""
    truth = {name: max(person.reliability, 0.0) for name, person in held.people.items()}

    def rmse(skill: Mapping[str, float]) -> float:
        return float(np.sqrt(np.mean([(skill[name] - truth[name]) ** 2 for name in truth])))

    errors = {"ours": rmse({name: max(found.of(name).kappa, 0.0) for name in truth})}
    if find_spec("crowdkit") is None:
        return errors
    rows = []
    for one, (first, second) in zip(held.judged, held.pairs, strict=True):
        left, right = (first, second) if one.side > 0 else (second, first)
        rows.append((one.person, left, right, first if one.y == 1 else second))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        frame = import_module("pandas").DataFrame(rows, columns=["worker", "left", "right", "label"])
        theirs = import_module("crowdkit.aggregation").NoisyBradleyTerry().fit(frame)
    return errors | {"crowd-kit": rmse(dict(theirs.skills_))}


def _e4_figures(
    p: Protocol,
    kind: Kind,
    arms: Mapping[str, Float],
    sizes_N: Float,
    auc: Sequence[float],
) -> Iterator[Figure]:
    part, decides = p.e4, kind == p.e4.decisive
    ratio = labels_saved(
        "E4",
        f"{kind}: labels saved against unweighted",
        arms["ours"],
        arms["unweighted"],
        sizes_N,
        resamples=p.resamples,
    )
    wanted = part.criteria["ratio"]
    yield replace(ratio, criterion=f"at least {wanted}", met=ratio.value >= wanted) if decides else ratio
    yield labels_saved(
        "E4", f"{kind}: labels saved by an oracle", arms["oracle"], arms["unweighted"], sizes_N, resamples=p.resamples
    )
    for arm, curve_SN in arms.items():
        yield mean(
            "E4", f"{kind}: held-out accuracy, {arm}, {part.sizes[-1]} labels", curve_SN[:, -1], resamples=p.resamples
        )
    figure = mean("E4", f"{kind}: AUC of bad people at {part.each} labels each", auc, resamples=p.resamples)
    limit = part.criteria["auc"]
    yield replace(figure, criterion=f"at least {limit}", met=figure.value >= limit) if decides else figure


def e4_others(p: Protocol) -> Iterator[Figure]:
    """Who fails on one topic is flagged for it; who drifts is weighed less at the end than at the start."""
    part, hit, false, start, end = p.e4, [], [], [], []
    if part.decisive not in part.worlds:
        return
    for seed in p.seeds:
        bank = p.world.bank(part.decisive, seed)
        held = session(bank, part.others, part.others_each, p.people, gold_gap=part.gold_gap, seed=seed)
        found = reliability.fit(held.judged)
        flags = {(flag.person, flag.about) for flag in review(held.judged, found) if flag.key == "topic"}
        of = {kind: [name for name in held.people if name.split()[1] == kind] for kind in part.others}
        hit.append(float(np.mean([(name, "topic 0") in flags for name in of["topic"]])))
        false.append(float(np.mean([any(who == name for who, _ in flags) for name in of["crowd"]])))
        early = reliability.fit(held.judged[: len(held.judged) // 4])
        start.append(float(np.mean([early.of(name).kappa for name in of["drifting"]])))
        end.append(float(np.mean([found.of(name).recent for name in of["drifting"]])))
    name = f"{part.decisive}: after {part.others_each} answers, share flagged for a topic,"
    yield mean("E4", f"{name} of those who are reversed on it", hit, resamples=p.resamples)
    yield mean("E4", f"{name} of the others", false, resamples=p.resamples)
    yield mean("E4", f"{part.decisive}: A - F of those who drift, first quarter", start, resamples=p.resamples)
    yield mean("E4", f"{part.decisive}: A - F of those who drift, last {WINDOW}", end, resamples=p.resamples)
