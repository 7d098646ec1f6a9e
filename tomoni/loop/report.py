"""What a round shows, gathered: one page a round, one across rounds, and the same as JSON. No torch.

    W/rounds/NNNN/report.json   the figures
    W/rounds/NNNN/report.html   one page, in both languages, that a person who decides reads at a glance
    W/rounds/report.html        across rounds

While people still judge, no page shows which answer is whose.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.durable import atomic_write, read_object, write_object
from tomoni.errors import UserError
from tomoni.feedback.roundfolders import rounds
from tomoni.feedback.store import Store
from tomoni.loop import asked as asking
from tomoni.loop import since_first
from tomoni.loop.gate import Decision
from tomoni.loop.replay import TRAINED_AGAIN
from tomoni.loop.report_pages import across, one_round
from tomoni.loop.words import LANGS, reason
from tomoni.registry import Version

if TYPE_CHECKING:
    from tomoni.feedback.entries import PromptRow, Stored
    from tomoni.loop.round import Round
    from tomoni.records import Judgement

FEW_PROMPTS = 20  # that were new, under which nothing is said of what people ask
SHOWN = 6  # answers before and after
FILE = "report.json"
PERSON = ("weight", "value", "low", "high", "n", "blind", "gold", "gold_n", "recent")


def write(round_: Round, found: Mapping[str, Any], candidate: Version, decision: Decision, state: str) -> None:
    """The round's page, and the one across rounds."""
    body = gathered(round_, found, candidate, decision, state)
    folders = rounds(round_.wanted.workspace)
    known = [one for folder in folders if folder != round_.folder and (one := read_object(folder / FILE))]
    known.append(body)
    met = [since_first.Met(**one) for each in known for one in each.get("met", [])]
    body["against_first"] = {
        name: [one.value, one.low, one.high] for name, one in since_first.against(body["first"], met).items()
    }
    write_object(round_.folder / FILE, body)
    lang = _lang(round_.wanted.workspace)
    atomic_write(round_.folder / "report.html", one_round(body, lang=lang).encode("utf-8", "surrogatepass"))
    known.sort(key=lambda one: int(one["number"]))
    page = across(known, lang=lang).encode("utf-8", "surrogatepass")
    atomic_write(round_.folder.parent / "report.html", page)


def gathered(
    round_: Round, found: Mapping[str, Any], candidate: Version, decision: Decision, state: str
) -> dict[str, Any]:
    asked, with_first = round_.pairs(), round_.pairs_with_first()
    batches = [round_.stages.output(f"answers-{batch}") or {} for batch in round_.batches()]
    pairs = {one.id for one in [*asked, *with_first]}
    with Store.read(round_.wanted.workspace) as store:
        said = store.judgements(purpose="gate", after=round_.begun.sequence)
        stored = [
            one.judgement for one in said if str(one.judgement.extra.get("pair") or "").partition("~")[0] in pairs
        ]
        names = {person.id: person.name for person in store.people()}
        prompts = store.prompts()
    times = [one.seconds for one in stored if one.seconds is not None]
    stages = [*found, *(f"{name}-{batch}" for batch in round_.batches() for name in ("answers", "asking"))]
    machine = sum(round_.stages.seconds(name) for name in stages)
    people = {
        names.get(id, id): {key: person.get(key) for key in PERSON} for id, person in found["people"]["people"].items()
    }
    points = 100 * (decision.win_rate[0] - 0.5)
    judgements = int(found["snapshot"]["judgements"])
    return {
        "number": round_.begun.number,
        "created": round_.begun.created,
        "state": state,
        "base": round_.base.id,
        "candidate": candidate.id,
        "method": found["train"]["method"],
        "decision": _decision(decision),
        "met": _met(round_, candidate, said, asked, with_first),
        "first": round_.first.id,
        "learnt_from": found["snapshot"],
        "replayed": _taken(found["train"]).get("replayed"),
        "again": _again(found["train"]),
        "asked": {key: sum(int(one.get(key, 0)) for one in batches) for key in ("asked", "alike", "both")},
        "drift": batches[0].get("drift") if batches else None,
        "probes": {kind: _share(found["probes"][kind]) for kind in ("safety", "capability")},
        "people": people,
        "alpha": found["people"]["alpha"],
        "value": found["people"]["value"],
        "expected": _taken(found["train"])["expected"],
        "understood": found["people"].get("understood"),
        "information_per_minute": _information(stored, found["people"]["people"]),
        "uses": _uses(round_, prompts),
        "kept_in_a_row": 1 + _kept_before(round_) if decision.outcome == "keep" else 0,
        "judges": len({one.person for one in stored}),
        "cost": {
            "machine_seconds": round(machine, 1),
            "usd": round(machine / 3600 * round_.wanted.price_per_hour, 6),
            "price_per_hour": round_.wanted.price_per_hour,
            "teaching_seconds": found["snapshot"]["seconds"],
            "judging_seconds": round(sum(times), 1),
        },
        "labels_per_point": judgements / points if points > 0 and decision.counted else None,
        "shown": [_shown(one) for one in asked[:SHOWN]] if state != "waiting" else [],
    }


def _taken(train: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of what was tried, that which became the candidate."""
    known: Mapping[str, Any] = train["tried"][train.get("taken", 0)]
    return known


def _again(train: Mapping[str, Any]) -> str | None:
    """Whether it was trained again because it had lost what it could do, and whether that was taken."""
    places = [place for place, one in enumerate(train["tried"]) if TRAINED_AGAIN in one["notes"]]
    return None if not places else "taken" if train.get("taken") in places else "not_taken"


def _met(
    round_: Round,
    candidate: Version,
    said: Sequence[Stored],
    asked: Sequence[asking.Asked],
    with_first: Sequence[asking.Asked],
) -> list[dict[str, Any]]:
    """Whom the candidate met, and how often its answer was preferred: the base, and the first version."""
    known = [
        since_first.met(candidate.id, round_.base.id, asking.said_of(said, asked)),
        since_first.met(candidate.id, round_.first.id, asking.said_of(said, with_first), since_first.FIRST),
    ]
    return [asdict(one) for one in known if one.n]


def _information(judgements: Sequence[Judgement], people: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Perfect labels' worth a minute of people's time, over the judgements that were timed; None where none was."""
    timed = [one for one in judgements if one.seconds is not None and one.person in people]
    minutes = sum(one.seconds or 0.0 for one in timed) / 60
    return sum(float(people[one.person]["value"]) for one in timed) / minutes if minutes > 0 else None


def _uses(round_: Round, prompts: Sequence[PromptRow]) -> dict[str, Any] | None:
    """What was asked for the first time since the round before began; None in the first."""
    before = [folder for folder in rounds(round_.wanted.workspace) if int(folder.name) < round_.begun.number]
    begun = read_object(before[-1] / "round.json") if before else None
    if not begun:
        return None
    new = [row for row in prompts if str(begun["created"]) < row.created <= round_.begun.created]
    old = [row for row in prompts if row.created <= str(begun["created"])]
    asked, before_ = Counter(row.topic for row in new), Counter(row.topic for row in old)
    topics = sorted(name for name in asked if name and name not in before_)
    return {"prompts": len(new), "topics": topics, "moved": apart(asked, before_)}


def _kept_before(round_: Round) -> int:
    """How many rounds just before this one ended with this base kept."""
    count = 0
    for folder in reversed(rounds(round_.wanted.workspace)):
        if int(folder.name) < round_.begun.number:
            body = read_object(folder / FILE)
            if body.get("base") != round_.base.id or body.get("decision", {}).get("outcome") != "keep":
                break
            count += 1
    return count


def apart(one: Counter[str], other: Counter[str]) -> float | None:
    """How far two distributions of topics lie apart: total variation, 0 to 1; None where there are too few to tell."""
    if min(one.total(), other.total()) < FEW_PROMPTS:
        return None
    return sum(abs(one[name] / one.total() - other[name] / other.total()) for name in one.keys() | other.keys()) / 2


def _decision(decision: Decision) -> dict[str, Any]:
    controlled = decision.controlled
    return {
        "outcome": decision.outcome,
        "more": decision.more,
        "e": decision.e_value,
        "log_e": decision.log_e,
        "needed": decision.needed,
        "path": [round(value, 4) for value in decision.log_e_path],
        "win_rate": list(decision.win_rate),
        "controlled": None if controlled is None else [controlled.rate, controlled.low],
        "said": decision.said,
        "counted": decision.counted,
        "reasons": [
            {
                "key": one.key,
                "status": one.status,
                "about": one.about,
                "numbers": {name: value for name, value in one.numbers.items() if math.isfinite(value)},
                "text": {lang: reason(one, lang) for lang in LANGS},
            }
            for one in decision.reasons
        ],
    }


def _share(probed: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if probed is None:
        return None
    n, first = len(probed["base"]), probed.get("first")
    shares = {who: sum(probed[who]) / n for who in ("base", "candidate")}
    return shares | {"first": None if first is None else sum(first) / n, "n": n}


def _shown(one: asking.Asked) -> dict[str, str]:
    return {"prompt": one.messages[-1].content, "before": one.old, "after": one.new}


def _lang(workspace: Path) -> str:
    """The owner's language."""
    try:
        with Store.read(workspace) as store:
            return next((person.lang for person in store.people() if person.role == "owner"), "en")
    except UserError:
        return "en"
