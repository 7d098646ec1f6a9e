"""What the gate and its reports say, in English and Japanese. The gate itself gives keys and numbers (`gate.Reason`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from tomoni.loop.gate import Decision, Reason

Lang = Literal["en", "ja"]
LANGS: Final[tuple[Lang, ...]] = ("en", "ja")

REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "preferred": (
        "People prefer its answers: {won:.0%} of {n:.0f} pairs, evidence {e} against the {needed:.3g} that is needed.",
        "人は新しい答えの方を選びました（{n:.0f}組中{won:.0%}、証拠の強さ {e}、必要な値 {needed:.3g}）。",
    ),
    "worse": (
        "People prefer the answers of the version of now: the candidate won {won:.0%} of {n:.0f} pairs.",
        "人は今のモデルの答えの方を選びました（候補の勝率は{n:.0f}組中{won:.0%}）。",
    ),
    "hardly_better": (
        "It won {won:.0%} of {n:.0f} pairs, so a win rate of {worth:.0%} can be ruled out: not worth a change.",
        "{n:.0f}組中の勝率は{won:.0%}で、{worth:.0%}に届く見込みはありません。入れ替えるほどではありません。",
    ),
    "not_sure_yet": (
        "It won {won:.0%} of {n:.0f} pairs so far; the evidence is {e}, and {needed:.3g} is needed.",
        "これまでの勝率は{n:.0f}組中{won:.0%}です（証拠の強さ {e}、必要な値 {needed:.3g}）。",
    ),
    "nobody_yet": (
        "Nobody has judged its answers yet.",
        "まだ誰も見比べていません。",
    ),
    "length_unknown": (
        "Nothing is known yet of what length has to do with it.",
        "答えの長さの影響は、まだわかりません。",
    ),
    "length_holds": (
        "At equal length it would win {rate:.0%}, at least {low:.0%}: the preference is not for length.",
        "同じ長さなら勝率は{rate:.0%}（少なくとも{low:.0%}）です。長さで選ばれたのではありません。",
    ),
    "length_explains": (
        "At equal length it would win {rate:.0%}, but that could be {low:.0%}: the preference may be for length alone.",
        "同じ長さなら勝率は{rate:.0%}ですが、{low:.0%}かもしれません。長さだけで選ばれた可能性が残ります。",
    ),
    "topic_holds": (
        'On "{about}" it is not worse: {won:.0%} of {n:.0f} pairs.',
        "「{about}」でも悪くなっていません（{n:.0f}組中{won:.0%}）。",
    ),
    "topic_worse": (
        'On "{about}" it became worse: {won:.0%} of {n:.0f} pairs.',
        "「{about}」では悪くなりました（{n:.0f}組中{won:.0%}）。",
    ),
    "topic_unsure": (
        'On "{about}" it could have become worse: {won:.0%} of {n:.0f} pairs so far.',
        "「{about}」で悪くなっていないとは、まだ言えません（{n:.0f}組中{won:.0%}）。",
    ),
    "topic_behind": (
        'On "{about}" it lies far behind the other topics: {won:.0%} of {n:.0f} pairs. It must be shown that it is not worse.',
        "「{about}」は他の話題より大きく劣ります（{n:.0f}組中{won:.0%}）。悪くなっていないことを確かめる必要があります。",
    ),
    "topic_contested": (
        'On "{about}" people contradict each other. It must be shown that it is preferred there even if a fifth of them praise '
        "it whatever it says: {won:.0%} of {n:.0f} pairs so far.",
        "「{about}」では、人によって評価が逆になっています。5人に1人が無条件にほめたとしても好まれていると言えるまで、"
        "確かめる必要があります（{n:.0f}組中{won:.0%}）。",
    ),
    "few_judges": (
        "Only {judges:.0f} people judged; with five or more, nobody's taste alone decides.",
        "見比べたのは{judges:.0f}人です。5人以上なら、一人の好みだけで決まりません。",
    ),
    "one_persons_share": (
        "{waiting:.0f} judgements wait, because nobody may give more than {cap:.0%} of a topic's.",
        "一人が一つの話題の{cap:.0%}を超えないよう、{waiting:.0f}件の判断は他の人を待っています。",
    ),
    "safety_holds": (
        "It is as safe: it prefers the good answer in {new:.1%} of {n:.0f} probes, {base:.1%} before.",
        "安全さは保たれています（{n:.0f}問中、良い答えを選ぶ割合 {new:.1%}、以前は{base:.1%}）。",
    ),
    "safety_worse": (
        "It became less safe: it prefers the good answer in {new:.1%} of {n:.0f} probes, {base:.1%} before.",
        "安全さが下がりました（{n:.0f}問中、良い答えを選ぶ割合 {new:.1%}、以前は{base:.1%}）。",
    ),
    "safety_eroded": (
        "Round by round it became less safe: it prefers the good answer in {new:.1%} of {n:.0f} probes, the first version in "
        "{first:.1%}.",
        "回を重ねるうちに安全さが下がりました（{n:.0f}問中、良い答えを選ぶ割合 {new:.1%}、最初のバージョンは{first:.1%}）。",
    ),
    "safety_unsure": (
        "That it is as safe, within {margin:.0%}, could not be shown: {new:.1%} of {n:.0f} probes, {base:.1%} before.",
        "安全さが{margin:.0%}以内に保たれているとは示せませんでした（{n:.0f}問中{new:.1%}、以前は{base:.1%}）。",
    ),
    "safety_hard": (
        "{broken:.0f} of the probes that every version must pass are not passed.",
        "必ず守るべき問いのうち、{broken:.0f}問に通りませんでした。",
    ),
    "safety_not_measured": ("Safety was not measured.", "安全さは測られていません。"),
    "capability_holds": (
        "It can still do what it could: {new:.1%} of {n:.0f} tasks, {base:.1%} before.",
        "できることは保たれています（{n:.0f}問中{new:.1%}、以前は{base:.1%}）。",
    ),
    "capability_worse": (
        "It has forgotten: {new:.1%} of {n:.0f} tasks right, {base:.1%} before.",
        "忘れたことがあります（{n:.0f}問中の正答 {new:.1%}、以前は{base:.1%}）。",
    ),
    "capability_eroded": (
        "Round by round it has forgotten: {new:.1%} of {n:.0f} tasks right, {first:.1%} by the first version.",
        "回を重ねるうちに忘れたことがあります（{n:.0f}問中の正答 {new:.1%}、最初のバージョンは{first:.1%}）。",
    ),
    "capability_unsure": (
        "{new:.1%} of {n:.0f} tasks right, {base:.1%} before: too few to rule out a loss of {margin:.0%}.",
        "{n:.0f}問中の正答は{new:.1%}、以前は{base:.1%}です。{margin:.0%}の低下がないとは、この問題数では言えません。",
    ),
    "capability_not_measured": (
        "What it can do was not measured: put tasks into probes/capability.jsonl of the workspace.",
        "できることは測られていません。ワークスペースの probes/capability.jsonl に問題を入れてください。",
    ),
    "flagged": (
        "Answers flagged as harmful, private or untrue: {new:.0f} of the candidate's, {base:.0f} of the other's.",
        "有害・個人情報・虚偽の印がついた答え：候補 {new:.0f}件、今のモデル {base:.0f}件。",
    ),
    "flagged_more": (
        "More of its answers were flagged as harmful, private or untrue: {new:.0f}, against {base:.0f} of the other's.",
        "有害・個人情報・虚偽の印が増えました（候補 {new:.0f}件、今のモデル {base:.0f}件）。",
    ),
    "hardly_differs": (
        "Both answer {alike:.0f} of {drawn:.0f} prompts alike: it has hardly changed, and which is better cannot be told.",
        "{drawn:.0f}問中{alike:.0f}問で答えが同じでした。変化が小さく、どちらが良いとは言えません。",
    ),
    "limit": (
        "After {most:.0f} pairs it is still not shown to be better.",
        "{most:.0f}組を見比べても、良くなったとは示せませんでした。",
    ),
}

OUTCOMES: Final[Mapping[str, tuple[str, str]]] = {
    "promote": ("Promote", "採用"),
    "keep": ("Keep what is served", "今のモデルのまま"),
    "undecided": ("Undecided", "未定"),
}
OTHERS: Final = ("other topics", "その他の話題")  # small ones, counted together
MORE: Final = ("about {more} more judgements will tell", "あと約{more}件の判断でわかります")


LEFT_OUT: Final[Mapping[str, str]] = {
    "replaced by a later judgement": "後の判断で置き換えられた",
    "undone": "取り消された",
    "contradicted by the same person later": "同じ人が後で逆の判断をした",
    "said again by the same person": "同じ人が同じ判断をした",
    "on a held-out prompt": "測るために取っておいた問い",
    "on a gold pair": "答えのわかる問い",
    "on a gate pair": "採否の判断",
    "on a repeat pair": "くり返しの問い",
    "of a person whose judgements weigh nothing": "重みのない人の判断",
    "both bad": "どちらも悪い",
    "the better answer is flagged": "良い方の答えに印がある",
    "flags": "印",
    "skipped": "とばした",
    "comments": "コメント",
    "a correction that changes nothing": "変わらない修正",
    "neither good nor bad (3 stars)": "良くも悪くもない（星3つ）",
}


AGAIN: Final[Mapping[str, tuple[str, str]]] = {  # trained with replay, because it had lost what it could do
    "taken": ("trained again with replay, and that is the candidate", "復習を加えて学び直し、それを候補にしました"),
    "not_taken": (
        "trained again with replay, which nobody would have preferred: the first one is the candidate",
        "復習を加えて学び直しましたが、好まれる見込みがなく、初めのものを候補にしました",
    ),
}


def left_out(why: str) -> str:
    """Why a judgement was not trained on, in Japanese; what has no words here stays as it is."""
    return LEFT_OUT.get(why, why)


def replayed(body: Mapping[str, Any] | None) -> tuple[str, str]:
    """What was replayed beside what people taught, and what to do where nothing was found."""
    if body is None or body["source"] == "off":
        return "nothing (--replay 0)", "なし（--replay 0）"
    gone = ", ".join(Path(name).name for name in body["gone"])
    if body["source"] == "nothing":
        why = (f"; {gone} is not there any more", f"（{gone} はもうありません）") if gone else ("", "")
        return (
            f"nothing: what this model was tuned on was not found{why[0]}. Put rows of it into replay.jsonl in the workspace.",
            f"なし：このモデルの学習データが見つかりません{why[1]}。ワークスペースの replay.jsonl に置いてください。",
        )
    files = ", ".join(Path(name).name for name in body["files"])
    share, rows = f"{body['share']:.0%}", f"{body['rows']:,}"
    of = ", ".join(body["versions"])
    en = f"{rows} rows of {files}" + (f", which {of} was tuned on" if of else "")
    ja = f"{files} の{rows}行" + (f"（{of} の学習データ）" if of else "")
    rest = (f"; not there any more: {gone}", f"。もうないもの：{gone}") if gone else ("", "")
    return f"{en}: {share} of what was learnt{rest[0]}", f"{ja}：学びの{share}{rest[1]}"


def reason(one: Reason, lang: Lang) -> str:
    key = "nobody_yet" if one.key == "not_sure_yet" and not one.numbers.get("n") else one.key
    text = REASONS[key][LANGS.index(lang)]
    numbers: dict[str, float | str] = {name: value for name, value in one.numbers.items() if math.isfinite(value)}
    if "e" in one.numbers:
        numbers["e"] = evidence(one.numbers["e"])
    return text.format(**numbers, about=one.about or OTHERS[LANGS.index(lang)])


def evidence(e: float) -> str:
    """An e-value as people read it."""
    return f"{e:.3g}" if e < 1000 else f"{e:,.0f}" if e < 1e6 else f"{e:.1e}"


def verdict(decision: Decision, lang: Lang) -> str:
    """One line: the outcome, and how many judgements are missing."""
    at = LANGS.index(lang)
    said = OUTCOMES[decision.outcome][at]
    if decision.more is None:
        return said
    return f"{said}{': ' if lang == 'en' else '：'}{MORE[at].format(more=decision.more)}"
