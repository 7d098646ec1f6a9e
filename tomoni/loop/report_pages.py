"""The pages of a round and across rounds, from the figures of `report`. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tomoni.feedback.roundfolders import at_random
from tomoni.loop import words
from tomoni.loop.gate import Reason
from tomoni.loop.page import (
    Html,
    Link,
    Tone,
    bars,
    both,
    course,
    for_owner,
    joined,
    marks,
    page,
    section,
    steps,
    table,
    tiles,
    verdict,
)

Body = Mapping[str, Any]
TONES: Mapping[str, Tone] = {"passed": "good", "failed": "bad", "open": "wait", "note": "plain"}
OUTCOME_TONE: Mapping[str, Tone] = {"promote": "good", "keep": "bad", "undecided": "wait"}
MOVED = 0.3  # total variation of topics, from which it is said
WANING = 0.3  # of a person's weight
AT_REST = 2  # rounds kept in a row (in rehearsal seven of seven that followed were kept as well)
ALPACA_FARM = 926  # labels per point of win rate: 44.3 to 55.1 % by 10,000 pairs


def one_round(body: Body, *, lang: str) -> str:
    number = body["number"]
    title = (
        f"Round {number}: {body['base']} → {body['candidate']}",
        f"第{number}回：{body['base']} → {body['candidate']}",
    )
    return page(title, _parts(body), lang=lang)


def _parts(body: Body) -> Iterator[Html]:
    decision = body["decision"]
    yield _verdict(body)
    yield _tiles(body)
    yield section(
        ("Evidence, judgement by judgement", "証拠の強さ（判断ごと）"),
        course(decision["path"], decision["needed"], ("e-value after each judgement", "判断ごとのe値")),
        note=(
            "It may be looked at at any time: a candidate that is no better reaches the dashed line in 5 % of cases at most, "
            "over all rounds together.",
            "いつ見てもかまいません。良くなっていない候補が破線に届くのは、全回を通して5%以下です。",
        ),
    )
    yield section(("Why", "理由"), marks([(TONES[one["status"]], _reason(one)) for one in decision["reasons"]]))
    topics = [one for one in decision["reasons"] if one["key"].startswith("topic_")]
    if topics:
        yield section(
            ("By topic", "話題ごとの勝率"),
            bars([_topic(one) for one in topics], ("win rate by topic", "話題ごとの勝率")),
        )
    if body["shown"]:
        yield _before_and_after(body["shown"])
    yield section(("What it learnt from", "学んだもの"), _learnt(body))
    yield section(("The people", "判断した人"), _people(body))
    yield section(("How the model changed", "モデルの変化"), _model(body))
    of_people = for_owner(marks([("plain", line) for line in _waning(body)]))
    yield section(("What to do next", "次にすること"), marks([("plain", line) for line in _next(body)]), of_people)


def _verdict(body: Body) -> Html:
    decision = body["decision"]
    outcome = decision["outcome"]
    served = body["candidate"] if body["state"] == "promoted" else body["base"]
    head = {
        "promote": (f"Promoted: {served} is served now", f"採用：{served} を使っています"),
        "keep": (f"Kept: {served} stays", f"据え置き：{served} のままです"),
        "undecided": ("Undecided: people are still judging", "未定：見比べている途中です"),
    }[outcome]
    if outcome == "promote" and body["state"] != "promoted":
        head = (
            "Better, but not promoted: another version is served meanwhile",
            "良くなりましたが、別のバージョンに替わっていたため採用していません",
        )
    lines = [_reason(one) for one in decision["reasons"] if one["status"] in ("failed",)]
    lines = lines or [_reason(one) for one in decision["reasons"][:1]]
    if decision["more"] is not None:
        lines.append(
            (words.MORE[0].format(more=decision["more"]) + ".", words.MORE[1].format(more=decision["more"]) + "。")
        )
    return verdict(OUTCOME_TONE[outcome], head, lines)


def _tiles(body: Body) -> Html:
    decision, cost = body["decision"], body["cost"]
    value, low, high = decision["win_rate"]
    controlled = decision["controlled"]
    people = (cost["teaching_seconds"] + cost["judging_seconds"]) / 60
    none = ("", "")
    return tiles(
        [
            (("Win rate", "勝率"), _percent(value, decision["counted"]), (f"{low:.0%} to {high:.0%}", f"{low:.0%}〜{high:.0%}")),
            *_since_first(body),
            (
                ("At equal length", "同じ長さなら"),
                "–" if controlled is None else f"{controlled[0]:.0%}",
                none if controlled is None else (f"at least {controlled[1]:.0%}", f"少なくとも{controlled[1]:.0%}"),
            ),
            (
                ("Evidence", "証拠の強さ"),
                words.evidence(decision["e"]),
                (f"needed: {math.exp(decision['needed']):.3g}", f"必要な値：{math.exp(decision['needed']):.3g}"),
            ),
            (
                ("Judged pairs", "判断した組"),
                f"{decision['counted']}",
                _judged(body),
            ),
            (
                ("Machine", "計算の費用"),
                f"${cost['usd']:.4f}",
                (f"{cost['machine_seconds']:.0f} s at ${cost['price_per_hour']:.2f}/h", f"{cost['machine_seconds']:.0f}秒（1時間{cost['price_per_hour']:.2f}ドル）"),
            ),
            (("People's time", "人の時間"), f"{people:.1f}", ("minutes, as far as timed", "分（計測できた分）")),
        ]
    )  # fmt: skip


def _since_first(body: Body) -> Iterator[tuple[tuple[str, str], str, tuple[str, str]]]:
    """A tile, from the second version on."""
    first, known = body.get("first"), body.get("against_first", {}).get(body["candidate"])
    if known is not None and first != body["base"]:
        value, low, high = known
        yield (
            (f"Against the first ({first})", f"最初の{first}に対して"),
            f"{value:.0%}",
            (f"{low:.0%} to {high:.0%}", f"{low:.0%}〜{high:.0%}"),
        )


def _judged(body: Body) -> tuple[str, str]:
    """By how many people; and how many pairs speak for all prompts, where small topics were given more."""
    judges, drawn = body["judges"], at_random(body["decision"]["reasons"])
    if drawn is None or drawn >= body["decision"]["counted"]:
        return f"by {judges} people", f"{judges}人による"
    return (
        f"by {judges} people; {drawn} drawn at random, the others for single topics",
        f"{judges}人による（うち{drawn}組は無作為、ほかは話題ごとの確認）",
    )


def _percent(value: float, counted: int) -> str:
    return f"{value:.0%}" if counted else "–"


def _reason(one: Body) -> tuple[str, str]:
    reason = Reason(one["key"], one["status"], one["numbers"], one["about"])
    return words.reason(reason, "en"), words.reason(reason, "ja")


def _topic(one: Body) -> tuple[str, float, float, float, Tone]:
    from scipy.special import betaincinv

    won, n = one["numbers"]["won"], one["numbers"]["n"]
    low, high = (float(betaincinv(1 + won * n, 1 + n - won * n, tail)) for tail in (0.025, 0.975))
    return (one["about"] or "other · その他", won, low, high, TONES[one["status"]])


def _before_and_after(shown: Sequence[Body]) -> Html:
    parts = []
    for one in shown:
        before, after = (Html(f'<p class="{name}">{both(one[name], one[name])}</p>') for name in ("before", "after"))
        parts.append(Html(f"<p><b>{both(one['prompt'], one['prompt'])}</b></p>{before}{after}"))
    return section(
        ("Before and after", "以前と今"),
        *parts,
        note=(
            "The first judged prompts, not chosen. Green: the candidate.",
            "最初に尋ねた問いで、選んだものではありません。緑が候補の答えです。",
        ),
    )


def _learnt(body: Body) -> Html:
    counts, left_out = body["learnt_from"]["counts"], body["learnt_from"]["left_out"]
    rows: list[list[object]] = [
        [("comparisons (ties among them)", "比較（引き分けを含む）"), f"{counts['comparisons']} ({counts['ties']})"],
        [("corrections", "直した答え"), counts["corrections"]],
        [("thumbs", "いいね・よくない"), counts["thumbs"]],
        [("method", "学び方"), body["method"]],
        [("replayed from before", "以前に学んだものの復習"), words.replayed(body.get("replayed"))],
    ]
    if body.get("again"):
        rows.append([("because it had forgotten tasks", "課題を忘れていたため"), words.AGAIN[body["again"]]])
    rows += [
        [(f"left out: {why}", f"使わなかったもの：{words.left_out(why)}"), count] for why, count in left_out.items()
    ]
    return table([("", ""), ("", "")], rows)


def _people(body: Body) -> Html:
    alpha, value = body["alpha"], body["value"]
    parts = []
    if alpha:
        interval = "" if alpha[1] is None else f" ({alpha[1]:.2f} – {alpha[2]:.2f})"
        parts.append(
            Html(
                f"<p>{both(f'Agreement (alpha): {alpha[0]:.2f}{interval}', f'一致度（α）：{alpha[0]:.2f}{interval}')}</p>"
            )
        )
    else:
        parts.append(
            Html(
                f"<p>{both('Nobody judged what another had judged, so agreement is not known.', '同じ組を二人以上が見比べていないので、一致度はわかりません。')}</p>"
            )
        )
    if value is not None:
        line = (
            f"A label is worth {value:.2f} of a perfect one.",
            f"判断1件の価値は、完全な判断の{value:.2f}件分です。",
        )
        parts.append(Html(f"<p>{both(*line)}</p>"))
    parts += [Html(f"<p>{both(*line)}</p>") for line in _understood(body)]
    rows = [
        [
            name,
            one["n"],
            f"{one['value']:.2f} ({one['low']:.2f} – {one['high']:.2f})",
            "–" if one["gold"] is None else f"{one['gold']:.0%} / {one['gold_n']}",
            ("left out: blind", "無作為に近いため不使用") if one["blind"] else ("", ""),
        ]
        for name, one in sorted(body["people"].items())
    ]
    head = [
        ("who", "人"),
        ("judgements", "判断"),
        ("value of one", "1件の価値"),
        ("known answers right", "答えのわかる問い"),
        ("", ""),
    ]
    return joined([*parts, for_owner(table(head, rows))]) if rows else joined(parts)


def _understood(body: Body) -> Iterator[tuple[str, str]]:
    known, rate = body.get("understood"), body.get("information_per_minute")
    if known:
        yield (
            f"The reward head foretells {known['accuracy']:.0%} of {known['n']} answers, each from all others; with these "
            f"people's slips at most {known['ceiling']:.0%} could be. Calibration error {known['ece']:.2f}.",
            f"好みの物差しは、{known['n']}件の判断の{known['accuracy']:.0%}を（その1件を除いた残りから）言い当てます。"
            f"人のぶれを考えると上限は{known['ceiling']:.0%}です。確信度のずれは{known['ece']:.2f}。",
        )
    if rate is not None:
        yield (
            f"Information: the worth of {rate:.1f} perfect labels a minute of people's time.",
            f"情報量：人の時間1分あたり、完全な判断{rate:.1f}件分。",
        )


def _model(body: Body) -> Html:
    # how long and how varied the answers are would tell whoever judges which is whose
    drift, probes = None if body["state"] == "waiting" else body["drift"], body["probes"]
    rows: list[list[object]] = []
    if drift is not None:
        kl = "–" if drift["kl"] is None else f"{drift['kl']:.2f}"
        rows += [
            [("length of an answer, characters", "答えの長さ（文字）"), *(f"{one:.0f}" for one in drift["length"])],
            [("variety (distinct-2)", "表現の多様さ（distinct-2）"), *(f"{one:.3f}" for one in drift["distinct"])],
            [("answers unlike all others", "他と違う答えの割合"), *(f"{one:.0%}" for one in drift["different"])],
            [("distance from the base, nats an answer", "前のバージョンからの距離（nat）"), "0", kl],
        ]
    if drift is not None and drift.get("kl_first") is not None:
        first = ("distance from the first version, nats an answer", "最初のバージョンからの距離（nat）")
        rows.append([first, "", f"{drift['kl_first']:.2f}"])
    for kind, name in (
        ("safety", ("safety probes passed", "安全さの問い")),
        ("capability", ("tasks right", "課題の正答")),
    ):
        one = probes[kind]
        rows.append([name, *(("–", "–") if one is None else (f"{one['base']:.1%}", f"{one['candidate']:.1%}"))])
        if one is not None and one.get("first") is not None:
            by_first = (f"the same, {body['first']}", f"同じく{body['first']}")
            rows.append([by_first, f"{one['first']:.1%}", ""])
    asked = body["asked"]
    rows.append(
        [
            ("answers alike before and after", "以前と同じ答え"),
            "",
            f"{asked['alike']} / {asked['alike'] + asked['asked']}",
        ]
    )
    return table([("", ""), (body["base"], body["base"]), (body["candidate"], body["candidate"])], rows)


def _next(body: Body) -> Iterator[tuple[str, str]]:
    decision = body["decision"]
    keys = {one["key"] for one in decision["reasons"]}
    if decision["outcome"] == "undecided":
        more = decision["more"]
        yield (
            f"Judge about {more} more pairs (Judge in the studio).",
            f"あと約{more}組を見比べてください（スタジオの「見比べる」）。",
        )
        unsure = [
            one["about"]
            for one in decision["reasons"]
            if one["key"] in ("topic_unsure", "topic_behind") and one["about"]
        ]
        if unsure:
            yield f"Above all on: {', '.join(unsure)}.", f"特に次の話題：{'、'.join(unsure)}。"
    if decision["outcome"] == "promote":
        yield (
            "Use it, and judge its new answers: the next round learns from them.",
            "使いながら新しい答えを見比べてください。次の回はそこから学びます。",
        )
    if (kept := body.get("kept_in_a_row", 0)) >= AT_REST and keys & {"hardly_better", "hardly_differs", "limit"}:
        yield (
            f"{kept} rounds in a row found nothing better that can be told: choosing among its own answers has brought this model "
            "what it can. Ask people less often for now. Corrections, new kinds of prompts or another base model take it further.",
            f"{kept}回続けて、はっきりした改善がありませんでした。このモデル自身の答えから選んで学べることは、ほぼ学び終えたようです。"
            "しばらくは見比べる回数を減らしてかまいません。さらに良くするには、答えの手直し、新しい種類の質問、別の土台のモデルが役に立ちます。",
        )
    elif keys & {"hardly_better", "hardly_differs", "worse", "limit"}:
        yield (
            "Teach more before the next round: corrections of what is wrong move a model most.",
            "次の回の前に、もっと教えてください。誤りを直すことが、いちばん効きます。",
        )
    if "length_explains" in keys:
        yield "Say in the guideline how long an answer should be.", "答えの長さの目安を、指針に書いてください。"
    if "few_judges" in keys:
        yield "Let more people judge.", "ほかの人にも見比べてもらってください。"
    if body["alpha"] is None:
        yield (
            "Let two people judge some of the same pairs: agreement shows where the guideline is unclear.",
            "同じ組を二人で見比べると、指針のあいまいな所がわかります。",
        )
    if "capability_not_measured" in keys:
        yield (
            "Put tasks with known answers into probes/capability.jsonl.",
            "答えのわかる課題を probes/capability.jsonl に入れてください。",
        )
    yield from _noticed(body)


def _noticed(body: Body) -> Iterator[tuple[str, str]]:
    """What people ask, and how they judge, is not what it was."""
    uses = body.get("uses")
    if uses and uses["topics"]:
        topics = uses["topics"]
        yield (
            f"New topics since the round before: {', '.join(topics)}. Judge some of their answers.",
            f"前の回のあとに加わった話題：{'、'.join(topics)}。その答えも見比べてください。",
        )
    if uses and (uses.get("moved") or 0.0) > MOVED:
        yield (
            f"People ask about other things than before ({uses['moved']:.0%} of the topics' shares moved): look at what is new.",
            f"尋ねられる話題が前と変わってきました（割合で{uses['moved']:.0%}）。新しい話題を確かめてください。",
        )


def _waning(body: Body) -> Iterator[tuple[str, str]]:
    for name, one in sorted(body["people"].items()):
        if one.get("recent") is not None and one["weight"] - one["recent"] > WANING and not one["blind"]:
            yield (
                f"{name}'s latest judgements agree less with the others than before: ask whether the guideline is clear.",
                f"{name}さんの最近の判断は、以前ほど他の人と合っていません。基準がわかりにくくないか尋ねてください。",
            )
    for name in (name for name, one in body["people"].items() if one["blind"]):
        yield (
            f"Talk with {name}: the last judgements look like chance.",
            f"{name}さんと話してください。最近の判断が無作為に近くなっています。",
        )


# -- across rounds ---------------------------------------------------------------------------------------------------


def across(known: Sequence[Body], *, lang: str) -> str:
    return page(("Rounds", "これまでの回"), _across(known), lang=lang)


def _across(known: Sequence[Body]) -> Iterator[Html]:
    promoted = [one for one in known if one["state"] == "promoted"]
    judged = sum(one["decision"]["said"] for one in known)
    usd = sum(one["cost"]["usd"] for one in known)
    minutes = sum(one["cost"]["judging_seconds"] for one in known) / 60
    taught = max((one["cost"]["teaching_seconds"] for one in known), default=0.0) / 60
    label = labels_per_point(known)
    yield tiles(
        [
            (("Rounds", "回数"), str(len(known)), (f"{len(promoted)} promoted", f"うち採用 {len(promoted)}")),
            (("Gate judgements", "採否の判断"), str(judged), ("", "")),
            (("Machine", "計算の費用"), f"${usd:.4f}", ("", "")),
            (("People's time", "人の時間"), f"{minutes + taught:.1f}", ("minutes, as far as timed", "分（計測できた分）")),
            (("Judgements learnt from, per point", "1ポイントあたりの学習用の判断"), "–" if label is None else f"{label:.3g}", (f"AlpacaFarm, other models: {ALPACA_FARM}", f"AlpacaFarm（別のモデル）：{ALPACA_FARM}")),
        ]
    )  # fmt: skip
    yield section(
        ("Win rate of each candidate over the version before", "候補の勝率（そのときのバージョンに対して）"),
        steps([_step(one) for one in known], ("win rate round by round", "回ごとの勝率")),
        note=(
            "Green: promoted. Red: kept out. Amber: people are still judging.",
            "緑：採用、赤：据え置き、黄：見比べている途中。",
        ),
    )
    far = [one for one in known if one["candidate"] in known[-1].get("against_first", {})]
    if len(far) > 1:
        first = known[-1]["first"]
        yield section(
            (
                f"How far it has come: win rate over the first version, {first}",
                f"最初のバージョン {first} からの歩み（勝率）",
            ),
            steps(
                [
                    (f"{one['number']}: {one['candidate']}", *known[-1]["against_first"][one["candidate"]], _tone(one))
                    for one in far
                ],
                ("win rate over the first version", "最初のバージョンに対する勝率"),
            ),
            note=(
                "From all blind judgements of all rounds together (Bradley-Terry): those of a candidate and its base, and those of a "
                "candidate and the first version. Prompts that both answer alike are not counted.",
                "すべての回の目隠しの判断をまとめた推定です（Bradley-Terry）。候補とそのときのバージョン、候補と最初のバージョンとの見比べを使い、"
                "両方の答えが同じだった問いは数えません。",
            ),
        )
    head = [("round", "回"), ("candidate", "候補"), ("decision", "結果"), ("win rate", "勝率"), ("at equal length", "同じ長さなら"),
            ("evidence", "証拠"), ("judged", "判断"), ("label value", "判断の価値"), ("variety", "多様さ"), ("machine", "計算")]  # fmt: skip
    yield section(("Round by round", "回ごとの記録"), table(head, [_row(one) for one in reversed(known)]))


def labels_per_point(known: Sequence[Body]) -> float | None:
    """Judgements that the promoted candidates learnt from, over the points of win rate above one half that they won."""
    points, before, labels = 0.0, 0, 0
    for one in known:
        if one["state"] == "promoted":
            labels += max(one["learnt_from"]["judgements"] - before, 0)
            before = one["learnt_from"]["judgements"]
            points += 100 * (one["decision"]["win_rate"][0] - 0.5)
    return labels / points if points > 0 else None


def _tone(one: Body) -> Tone:
    return {"promoted": "good", "kept": "bad"}.get(one["state"], "wait")  # type: ignore[return-value]


def _step(one: Body) -> tuple[str, float, float, float, Tone]:
    value, low, high = one["decision"]["win_rate"]
    return (f"{one['number']}: {one['candidate']}", value, low, high, _tone(one))


def _row(one: Body) -> list[object]:
    decision = one["decision"]
    state = {"promoted": ("promoted", "採用"), "kept": ("kept", "据え置き")}.get(one["state"], ("undecided", "未定"))
    controlled, value = decision["controlled"], one["value"]
    return [
        Link(f"{one['number']:04}/report.html", str(one["number"])),
        f"{one['base']} → {one['candidate']}",
        state,
        _percent(decision["win_rate"][0], decision["counted"]),
        "–" if controlled is None else f"{controlled[0]:.0%}",
        f"{words.evidence(decision['e'])} / {math.exp(decision['needed']):.3g}",
        decision["counted"],
        "–" if value is None else f"{value:.2f}",
        "–"
        if one["drift"] is None or one["state"] == "waiting"
        else f"{one['drift']['distinct'][0]:.2f} → {one['drift']['distinct'][1]:.2f}",
        f"${one['cost']['usd']:.4f}",
    ]
