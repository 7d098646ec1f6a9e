"""People who lie about one topic: the gate by itself holds them, and does not hold everything else as well."""

from __future__ import annotations

import numpy as np
import pytest

from tomoni.loop.evidence import Evidence, Said
from tomoni.loop.gate import decide
from tomoni.loop.rehearse_poison import attack, protocol, rehearse


def test_an_attack_on_one_topic_is_hidden_in_the_whole_and_found_in_its_topic() -> None:
    """A fifth of the judgements on topic 0 are lies in the candidate's favour, the others say that it is worse there."""
    rng = np.random.default_rng(0)
    said = []
    for place in range(400):
        topic = place % 8
        honest = rng.random() < (0.25 if topic == 0 else 0.72)
        x = 1.0 if topic == 0 and rng.random() < 0.2 else float(honest)
        said.append(Said(place + 1, f"p{place}", f"k{place % 19}", x, f"topic {topic}"))
    decision = decide(Evidence(said))
    keys = {(reason.key, reason.about): reason.status for reason in decision.reasons}
    assert keys["preferred", ""] == "passed" and decision.outcome != "promote"
    held = {about for (key, about), status in keys.items() if key.startswith("topic") and status != "passed"}
    assert held == {"topic 0"}
    blind = [Said(one.sequence, one.pair, one.person, one.x) for one in said]
    assert decide(Evidence(blind)).outcome == "promote"


def test_an_attack_makes_the_candidate_worse_on_its_topic_only() -> None:
    p = protocol(quick=True)
    poisoned, clean = attack(p, 900_000), attack(p, 900_000, clean=True)
    assert poisoned.harm < clean.harm - 0.2 and poisoned.elsewhere == pytest.approx(clean.elsewhere, abs=0.05)
    assert poisoned == attack(p, 900_000)


@pytest.mark.slow
def test_thirty_eight_of_forty_attacks_are_stopped() -> None:
    figures = {figure.name: figure for figure in rehearse(protocol())}
    assert figures["attacks stopped, of 40"].value >= 38
    assert (
        figures["attacks that make the candidate worse on their topic (truth)"].value >= 0.4
    )  # else there is little to stop
    assert figures["attacks promoted where topics are not looked at"].value > 0.9
    assert figures["clean candidates promoted"].value > 0.7
