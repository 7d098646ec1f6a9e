"""Personal data in texts is hidden before they are stored: what is found is replaced by its name, and counted. No torch.

Found are e-mail addresses, telephone numbers (Japanese ones, and international ones that begin with +), Japanese postal
codes (with their mark, or before a prefecture), credit cards and My Number (both by their check digit), and URLs that
carry a token or a password; in full-width and half-width forms alike (０９０－１２３４－５６７８).

Names and addresses of people are not found: no pattern tells them. The time is linear in the text, whatever it is: what
can be long begins at a sign that is looked for (@, ://) and is passed over once; what is matched by a pattern is short.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

EMAIL, PHONE, POSTAL, CARD, MY_NUMBER, URL = (
    "e-mail", "phone", "postal code", "credit card", "My Number", "URL with a secret",
)  # fmt: skip
KINDS = (EMAIL, PHONE, POSTAL, CARD, MY_NUMBER, URL)


@dataclass(frozen=True, slots=True)
class Found:
    start: int  # characters
    end: int
    kind: str


class Masker:
    """`masker(text)` is the text with personal data replaced; `counts` says how much of what kind was hidden so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        parts, end = [], 0
        for found in find(text):
            parts += [text[end : found.start], f"[{found.kind}]"]
            end = found.end
            self.counts[found.kind] += 1
        return "".join([*parts, text[end:]]) if parts else text


def mask(text: str) -> str:
    return Masker()(text)


def find(text: str) -> list[Found]:
    """Personal data in the order of the text; where two overlap, the one that begins first, then the longer one."""
    plain = text if text.isascii() else text.translate(_NARROW)  # one character stays one: places are the same
    looks = (_urls, _emails, _postal_codes, _cards, _my_numbers, _phones) if _DIGIT.search(plain) else (_urls, _emails)
    every = [found for look in looks for found in look(plain)]
    kept: list[Found] = []
    for found in sorted(every, key=lambda each: (each.start, -each.end)):
        if not kept or found.start >= kept[-1].end:
            kept.append(found)
    return kept


# full-width signs, digits and letters as their plain forms, and all that is written for a hyphen between digits
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_NARROW |= {0x3000: ord(" ")} | dict.fromkeys(map(ord, "‐‑‒–—―−ーｰ－"), ord("-"))

_DIGIT = re.compile("[0-9]")

# -- what begins at a sign -------------------------------------------------------------------------------------------

# Patterns begin with what they consume, where they can, and look behind only then: so what cannot begin one is skipped at
# the speed of C.
_OF_URL = r"[^\s<>\"'\u3000-\u303f）」』】]"
_URL_SIGN = re.compile(rf"[A-Za-z0-9+.-]://{_OF_URL}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,15}\Z", re.IGNORECASE | re.ASCII)
_URL_REST = re.compile(rf"{_OF_URL}+")
_SECRET = re.compile(
    r"[?&#;](?:access_?token|api_?key|apikey|auth|code|jwt|key|passw(?:or)?d|pwd|secret|session(?:_?id)?|sig(?:nature)?"
    r"|token|x-[a-z]{1,10}-(?:signature|security-token|credential))=[^&#;]",
    re.IGNORECASE | re.ASCII,
)
_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]{0,62})\.){1,8}[a-z]{2,24}(?![a-z0-9])"
_EMAIL = re.compile(rf"[{re.escape(_LOCAL)}](?=@({_DOMAIN}))", re.IGNORECASE | re.ASCII)


def _urls(text: str) -> Iterator[Found]:
    end = 0
    while (found := _URL_SIGN.search(text, end)) is not None:
        sign = found.start() + 1
        scheme = _SCHEME.search(text, max(end, sign - 16), sign)
        if scheme is None or (rest := _URL_REST.match(text, sign + 3)) is None:
            end = sign + 3
            continue
        end = rest.end() - _beyond(rest.group())
        user, at, _ = re.split("[/?#]", rest.group(), maxsplit=1)[0].rpartition("@")
        if (at and ":" in user) or _SECRET.search(text, sign, end):
            yield Found(scheme.start(), end, URL)


def _beyond(url: str) -> int:
    """Characters at the end that belong to the sentence and not to the URL."""
    return len(url) - len(url.rstrip(".,;:!?" if "(" in url else ".,;:!?)"))


def _emails(text: str) -> Iterator[Found]:
    least = 0
    for match in _EMAIL.finditer(text):
        before = text[max(least, match.end() - 64) : match.end()]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip(".'/")
        if local:
            yield Found(match.end() - len(local), match.end(1), EMAIL)
            least = match.end(1)


# -- what is short ---------------------------------------------------------------------------------------------------

_PREFECTURE = r"(?=\s{0,3}(?:北海道|東京都|京都府|大阪府|[一-龠]{2,3}県))"
_POSTAL = re.compile(
    rf"(?:〒|郵便番号[::]?)\s{{0,3}}[0-9]{{3}}-?[0-9]{{4}}(?![0-9])|(?<![0-9-])[0-9]{{3}}-[0-9]{{4}}{_PREFECTURE}"
)
_CARD = re.compile(
    r"\d(?<!\d\d)(?:\d{12,18}|\d{3}[ -]\d{4}[ -]\d{4}[ -]\d{1,7}|\d{3}[ -]\d{6}[ -]\d{4,5})(?!\d)", re.ASCII
)
_TWELVE = re.compile(r"\d(?<!\d\d)(?:\d{11}(?!\d)|(?<!\d[ -]\d)\d{3}[ -]\d{4}[ -]\d{4}(?![ -]?\d))", re.ASCII)
_PHONE = re.compile(
    r"\((?<![\d.-]\()0\d{1,4}\)[ -]?\d{1,4}[ )-]\d{3,4}(?![\d-])"
    r"|0(?<![\d.-]0)\d{1,4}[ (-]\d{1,4}[ )-]\d{3,4}(?![\d-])"
    r"|0(?<!\d0)\d{9,10}(?!\d)"
    r"|\+(?<![\w+]\+)\d{1,3}(?:[ ().-]{1,2}\d{1,5}){1,6}(?!\d)"
    r"|\+(?<![\w+]\+)\d{8,15}(?!\d)",
    re.ASCII,
)


def _digits(text: str) -> list[int]:
    return [ord(letter) - 48 for letter in text if "0" <= letter <= "9"]


def _postal_codes(text: str) -> Iterator[Found]:
    yield from (Found(*match.span(), POSTAL) for match in _POSTAL.finditer(text))


def _cards(text: str) -> Iterator[Found]:
    for match in _CARD.finditer(text):
        digits = _digits(match.group())
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits):
            yield Found(*match.span(), CARD)


def luhn(digits: list[int]) -> bool:
    """ISO/IEC 7812-1, annex B: from the right, every second digit doubled, its own digits summed."""
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


def _my_numbers(text: str) -> Iterator[Found]:
    for match in _TWELVE.finditer(text):
        digits = _digits(match.group())
        if len(set(digits)) > 1 and is_my_number(digits):
            yield Found(*match.span(), MY_NUMBER)


def is_my_number(digits: list[int]) -> bool:
    """Twelve digits of which the last checks the others (ordinance 85 of 2014 of the ministry of internal affairs,
    article 5): 11 minus the remainder by 11 of the sum of P_n Q_n, P_n the n-th digit from the right without the check
    digit, Q_n = n + 1 up to 6 and n - 5 from 7 on; 0 where that remainder is 0 or 1."""
    total = sum(digit * (n + 1 if n <= 6 else n - 5) for n, digit in enumerate(digits[10::-1], start=1))
    rest = total % 11
    return len(digits) == 12 and digits[11] == (0 if rest <= 1 else 11 - rest)


def _phones(text: str) -> Iterator[Found]:
    for match in _PHONE.finditer(text):
        count = len(_digits(match.group()))
        if 8 <= count <= 15 if match.group().startswith("+") else count in (10, 11):
            yield Found(*match.span(), PHONE)
