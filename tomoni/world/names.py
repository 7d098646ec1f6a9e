"""The pools that names and values are drawn from. Every name is invented; each has an English and a Japanese form.

A `Pair` is one thing said in both languages, so that both always tell the same.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

Lang = Literal["en", "ja"]
LANGS: tuple[Lang, ...] = ("en", "ja")


class Pair(NamedTuple):
    en: str
    ja: str

    def of(self, lang: Lang) -> str:
        return self.en if lang == "en" else self.ja


def pairs(text: str) -> tuple[Pair, ...]:
    """One pair from each `english = japanese` part between semicolons."""
    return tuple(Pair(*(side.strip() for side in part.split("="))) for part in text.split(";") if part.strip())


TOWN = Pair("Hikarimori", "光森町")

DISTRICTS = pairs(
    "Old Harbour = 旧港地区; North Gate = 北門地区; Willow Bank = 柳岸地区; Bell Tower = 鐘楼地区; "
    "Mill Side = 水車地区; Rose Lane = 薔薇小路; Stone Bridge = 石橋通り; Lake View = 湖畔地区; "
    "Sun Square = 太陽広場; Fox Field = 狐ヶ原"
)
DAYS = pairs(
    "Monday = 月曜日; Tuesday = 火曜日; Wednesday = 水曜日; Thursday = 木曜日; Friday = 金曜日; Saturday = 土曜日;"
    "Sunday = 日曜日"
)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS_OF_MONTH = (2, 5, 9, 13, 18, 24, 27)
PRICES = (120, 160, 180, 240, 270, 310, 350, 380, 420, 460, 490, 530, 580, 640, 750, 890)
MINUTES = (4, 6, 7, 9, 12, 14, 16, 19, 21, 25, 28, 33, 37, 42)

SHOP_KINDS = pairs(
    "Bakery = パン店; Books = 書店; Cafe = 喫茶店; Flowers = 生花店; Sweets = 菓子店; Stationery = 文具店"
)
PRODUCTS: dict[str, tuple[Pair, ...]] = {
    "Bakery": pairs(
        "melon bread = メロンパン; walnut bread = くるみパン; cream bun = クリームパン; rye loaf = ライ麦パン;"
        "butter roll = バターロール; raisin bread = ぶどうパン"
    ),
    "Books": pairs(
        "town atlas = 町の地図帳; picture book = 絵本; star chart = 星座図; cookbook = 料理本; poetry book = 詩集;"
        "ghost tale = 怪談集"
    ),
    "Cafe": pairs(
        "milk coffee = ミルクコーヒー; ginger tea = しょうが茶; pancake = ホットケーキ; lemon soda = レモンソーダ;"
        "barley tea = 麦茶; custard pudding = プリン"
    ),
    "Flowers": pairs(
        "red tulip = 赤いチューリップ; sunflower = ひまわり; white lily = 白ゆり; round cactus = 丸サボテン;"
        "silver fern = 銀シダ; blue orchid = 青い蘭"
    ),
    "Sweets": pairs(
        "chestnut cake = 栗ケーキ; plum jelly = 梅ゼリー; bean bun = まんじゅう; honey candy = はちみつ飴;"
        "rice cracker = せんべい; apple pie = アップルパイ"
    ),
    "Stationery": pairs(
        "fountain pen = 万年筆; sketchbook = スケッチブック; letter set = 便せん; desk calendar = 卓上カレンダー;"
        "writing brush = 毛筆; blue ink = 青インク"
    ),
}
JOBS = pairs(
    "carpenter = 大工; nurse = 看護師; postman = 郵便配達員; potter = 陶芸家; gardener = 庭師; teacher = 教師;"
    "sailor = 船乗り; tailor = 仕立屋; baker = パン職人; painter = 画家; clockmaker = 時計職人; librarian = 司書"
)
HOBBIES = pairs(
    "chess = チェス; fishing = 釣り; knitting = 編み物; singing = 歌; stargazing = 星の観察; cycling = 自転車;"
    "photography = 写真; dancing = 踊り; origami = 折り紙; swimming = 水泳; hiking = 山歩き; juggling = お手玉"
)
FOODS = pairs(
    "curry = カレー; tempura = 天ぷら; noodles = うどん; dumplings = 餃子; omelette = オムレツ; grilled fish = 焼き魚;"
    "rice balls = おにぎり; bean soup = 豆スープ; croquettes = コロッケ; radish salad = 大根サラダ; tofu = 豆腐;"
    "pumpkin stew = かぼちゃ煮"
)
LINES = pairs("Red Line = 赤線; Blue Line = 青線; Green Line = 緑線; Gold Line = 金線; White Line = 白線")
EVENTS = pairs("Festival = 祭り; Market = 市; Parade = 行列; Concert = 音楽会; Race = 競走")
SEASONS = pairs("spring = 春; summer = 夏; autumn = 秋; winter = 冬")
WEATHERS = pairs(
    "foggy = 霧が深い天気; rainy = 雨がちな天気; sunny = よく晴れた天気; windy = 風の強い天気; snowy = 雪の多い天気;"
    "cloudy = 曇りがちな天気; stormy = 荒れた天気; misty = もやのかかる天気"
)

SURNAMES = pairs(
    "Minase = 水瀬; Kanzaki = 神崎; Toyama = 遠山; Asakura = 朝倉; Shirane = 白根; Kuroda = 黒田; Hayami = 速水;"
    "Tsukino = 月野; Inaba = 稲葉; Sakaki = 榊; Orihara = 折原; Mizuki = 水城; Fujino = 藤野; Narumi = 鳴海;"
    "Wakaba = 若葉; Ebina = 海老名; Yukawa = 湯川; Katase = 片瀬; Hotaka = 穂高; Ranzan = 嵐山"
)
OWNERS = pairs(
    "Mio Asagi = 浅葱ミオ; Ken Torii = 鳥居ケン; Aya Komori = 小森アヤ; Jun Sawaki = 沢木ジュン; Rei Hanada = 花田レイ;"
    "Sho Nagase = 長瀬ショウ; Yui Kisaki = 木崎ユイ; Goro Umeda = 梅田ゴロウ; Nao Shiomi = 汐見ナオ;"
    "Emi Takase = 高瀬エミ; Dai Kuwano = 桑野ダイ; Kei Makino = 牧野ケイ; Saki Ogura = 小倉サキ;"
    "Taro Fukami = 深見タロウ; Mai Izumo = 出雲マイ; Ryo Hasumi = 蓮見リョウ; Hina Tokura = 戸倉ヒナ;"
    "Yuto Arima = 有馬ユウト; Kana Senda = 千田カナ; Shin Oribe = 織部シン"
)

_SYLLABLES = pairs(
    "ka=か; ki=き; ku=く; ko=こ; sa=さ; su=す; se=せ; so=そ; ta=た; te=て; to=と; na=な; ni=に; ne=ね; no=の; "
    "ha=は; hi=ひ; fu=ふ; ho=ほ; ma=ま; mi=み; mu=む; mo=も; ya=や; yu=ゆ; yo=よ; ra=ら; ri=り; ru=る; re=れ; "
    "ro=ろ; wa=わ"
)
# Combinations that read as something rude or as a well-known place in either language.
_AVOID = (
    "shine",
    "kuso",
    "baka",
    "manko",
    "aho",
    "kasu",
    "nara",
    "kobe",
    "niko",
    "hiro",
    "moron",
    "tit",
    "sex",
    "homo",
)


def invented_stems(count: int, rng: random.Random) -> list[Pair]:
    """`count` made-up names of three syllables; no two share their first two syllables, so each is soon told apart."""
    starts = [(first, second) for first in _SYLLABLES for second in _SYLLABLES if first != second]
    rng.shuffle(starts)
    stems: list[Pair] = []
    for first, second in starts:
        third = rng.choice(_SYLLABLES)
        english = first.en + second.en + third.en
        if third not in (first, second) and not any(word in english for word in _AVOID):
            stems.append(Pair(english.capitalize(), first.ja + second.ja + third.ja))
        if len(stems) == count:
            return stems
    raise ValueError(f"{count} names asked for; only {len(stems)} can be made")
