"""Reviews, notices and little stories set in the invented world, each with its class: for the corpus and for tasks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from tomoni.world.facts import Entity, World
from tomoni.world.names import LANGS, Lang, Pair, pairs
from tomoni.world.tell import join, sentence, shown_name, tell
from tomoni.world.wording import REGISTERS, Register, inflect, lines

ReviewClass = Literal["positive", "negative"]
NoticeClass = Literal["sale", "lost", "closure", "weather", "event"]
REVIEW_CLASSES: tuple[ReviewClass, ...] = ("positive", "negative")
NOTICE_CLASSES: tuple[NoticeClass, ...] = ("sale", "lost", "closure", "weather", "event")


@dataclass(frozen=True)
class Scene:
    text: str
    label: str  # a ReviewClass, a NoticeClass or "story"
    lang: Lang
    entity_ids: tuple[str, ...]  # whose full names stand in the text


_REVIEWS: dict[tuple[Lang, ReviewClass], tuple[str, ...]] = {
    ("en", "positive"): lines("""the staff at {s} were kind and quick
        I left {s} with a smile
        everything at {s} was clean and well kept
        I would go back to {s} any day
        my family loved every minute at {s}
        the quality at {s} is worth every yen
        {s} made my whole week better"""),
    ("en", "negative"): lines("""the staff at {s} were rude and slow
        I left {s} with a headache
        everything at {s} was dusty and old
        I will never go back to {s}
        my family hated every minute at {s}
        the quality at {s} is not worth a single yen
        {s} ruined my whole week"""),
    ("ja", "positive"): lines("""{s}の店員は親切で仕事が早<く|いです|い>
        {s}を出るときは笑顔にな<り|りました|った>
        {s}はどこも清潔<で|でした|だった>
        {s}にはまた行きたい<し|です|>
        {s}は家族みんなが気に入<り|りました|った>
        {s}の品は値段以上<で|です|だ>
        {s}のおかげで楽しい一日<で|でした|だった>"""),
    ("ja", "negative"): lines("""{s}の店員は無愛想で仕事が遅<く|いです|い>
        {s}を出るときは頭が痛くな<り|りました|った>
        {s}はどこも埃だらけ<で|でした|だった>
        {s}には二度と行きたくない<し|です|>
        {s}は家族みんなが嫌が<り|りました|った>
        {s}の品は値段に合わな<く|いです|い>
        {s}のせいでひどい一日<で|でした|だった>"""),
}
_NOTICES: dict[tuple[Lang, NoticeClass], tuple[str, ...]] = {
    ("en", "sale"): lines("""everything at {s} is half price this week
        {s} gives a discount to everyone who brings a friend
        two for the price of one at {s} until evening"""),
    ("en", "lost"): lines("""a blue umbrella was left behind at {s}
        somebody lost a small key near {s}
        a black cat has gone missing around {s}"""),
    ("en", "closure"): lines("""{s} will be shut for repairs until the end of the month
        {s} is closed today because its keeper has a cold
        there is no way into {s} while the roof is mended"""),
    ("en", "weather"): lines("""strong wind is expected around {s} tonight
        heavy rain may flood the street by {s}
        snow has fallen in front of {s}, so mind your step"""),
    ("en", "event"): lines("""come and sing with us in front of {s}
        a puppet play will be shown beside {s} on the holiday
        everyone is welcome to the lantern evening at {s}"""),
    ("ja", "sale"): lines("""今週は{s}の品がすべて半額<で|です|だ>
        友だちを連れて{s}へ行くと割引があ<り|ります|る>
        {s}では夕方まで一つの値段で二つ買え<|ます|る>"""),
    ("ja", "lost"): lines("""{s}に青い傘の忘れ物があ<り|ります|る>
        {s}の近くで小さな鍵を落とした人がい<て|ます|る>
        {s}の辺りで黒猫がいなくな<り|りました|った>"""),
    ("ja", "closure"): lines("""{s}は修理のため月末まで閉ま<り|ります|る>
        {s}は主人が風邪のため本日休業<で|です|だ>
        屋根を直すあいだ{s}には入れ<ず|ません|ない>"""),
    ("ja", "weather"): lines("""今夜は{s}の周りで強い風が吹きそう<で|です|だ>
        大雨で{s}の前の道が水につかるおそれがあ<り|ります|る>
        {s}の前に雪が積もったので足もとに注意が必要<で|です|だ>"""),
    ("ja", "event"): lines("""{s}の前でみんなで歌う会があ<り|ります|る>
        休日に{s}の隣で人形劇が見られ<|ます|る>
        {s}での提灯の夕べは誰でも歓迎<で|です|だ>"""),
}
_STORY_START: dict[Lang, tuple[str, ...]] = {
    "en": lines("""one {w} morning, {p} put on a warm coat and went out
        {p} had a letter to bring to the other end of town
        long ago, when {p} was small, the streets were quiet
        {p} woke up early and could not sleep any more"""),
    "ja": lines("""ある{w}朝、{p}は暖かい上着を着て出かけ<|ました|た>
        {p}は町の反対側へ手紙を届けることにな<り|りました|った>
        昔、{p}が小さかったころ、通りは静か<で|でした|だった>
        {p}は早く目が覚めて、もう眠れ<ず|ませんでした|なかった>"""),
}
_STORY_MIDDLE: dict[Lang, tuple[str, ...]] = {
    "en": lines("""on the way there was {s}
        the road led past {s}
        a light was burning at {s}"""),
    "ja": lines("""途中に{s}があ<り|りました|った>
        道は{s}の前を通って<|いました|いた>
        {s}には明かりがともって<|いました|いた>"""),
}
_STORY_END: dict[Lang, tuple[str, ...]] = {
    "en": lines("""in the evening {p} told the whole story at home
        {p} laughed and walked on
        after that, {p} slept well"""),
    "ja": lines("""夕方、{p}は家でその話をし<て|ました|た>
        {p}は笑って、また歩き出し<て|ました|た>
        それから{p}はぐっすり眠<り|りました|った>"""),
}
_SKIES = pairs("rainy = 雨の; cold = 寒い; bright = 晴れた; windy = 風の強い; foggy = 霧の")


def review(world: World, lang: Lang, register: Register, rng: random.Random, *, with_facts: bool = True) -> Scene:
    shop = rng.choice(world.of(kind="shop"))
    label = rng.choice(REVIEW_CLASSES)
    return _about(shop, _REVIEWS[lang, label], label, lang, register, rng, count=2, with_facts=with_facts)


def notice(world: World, lang: Lang, register: Register, rng: random.Random, *, with_facts: bool = True) -> Scene:
    place = rng.choice(world.of(kind=rng.choice(("shop", "station"))))
    label = rng.choice(NOTICE_CLASSES)
    return _about(place, _NOTICES[lang, label], label, lang, register, rng, count=1, with_facts=with_facts)


def board(world: World, rng: random.Random) -> Scene:
    """Two to four notices, or reviews, of one kind by different hands, as they hang side by side: about different places,
    often in both languages. Who reads many learns what is said of one kind of thing, without being told any kind."""
    about: tuple[str, ...]
    if rng.random() < 0.75:
        label: str = rng.choice(NOTICE_CLASSES)
        tables: dict[Lang, tuple[str, ...]] = {lang: _NOTICES[lang, label] for lang in LANGS}  # type: ignore[index]
        about = ("shop", "station")
    else:
        label = rng.choice(REVIEW_CLASSES)
        tables = {lang: _REVIEWS[lang, label] for lang in LANGS}  # type: ignore[index]
        about = ("shop",)
    first, both = rng.choice(LANGS), rng.random() < 0.5
    hung, places = [], []
    for _ in range(rng.choice((2, 3, 3, 4))):
        lang = rng.choice(LANGS) if both else first
        place = rng.choice(world.of(kind=rng.choice(about)))  # type: ignore[arg-type]
        said = rng.choice(tables[lang]).format(s=shown_name(place, lang, rng))
        hung.append(sentence(inflect(said, rng.choice(REGISTERS)), lang))
        places.append(place.id)
    return Scene("\n".join(hung), label, first, tuple(dict.fromkeys(places)))


def story(world: World, lang: Lang, register: Register, rng: random.Random) -> Scene:
    """A person goes out, comes past a place, and something true is told of both."""
    person, place = rng.choice(world.of(kind="person")), rng.choice(world.of(kind=rng.choice(("shop", "station"))))
    sky: Pair = rng.choice(_SKIES)
    parts = [_STORY_START[lang], _STORY_MIDDLE[lang], _STORY_END[lang]]
    start, middle, end = (
        sentence(
            inflect(
                rng.choice(part).format(
                    p=shown_name(person, lang, rng), s=shown_name(place, lang, rng), w=sky.of(lang)
                ),
                register,
            ),
            lang,
        )
        for part in parts
    )
    about = [tell(person, lang, register, rng)] if rng.random() < 0.5 else []
    said = [start, *about, middle, tell(place, lang, register, rng), end]
    return Scene(join(said, lang), "story", lang, (person.id, place.id))


def _about(
    entity: Entity,
    table: tuple[str, ...],
    label: str,
    lang: Lang,
    register: Register,
    rng: random.Random,
    *,
    count: int,
    with_facts: bool,
) -> Scene:
    said = [
        sentence(inflect(text.format(s=shown_name(entity, lang, rng)), register), lang)
        for text in rng.sample(table, count)
    ]
    if with_facts:
        said.insert(rng.randint(0, len(said)), tell(entity, lang, register, rng))
    return Scene(join(said, lang), label, lang, (entity.id,))
