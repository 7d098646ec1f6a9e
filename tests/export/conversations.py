"""Conversations as people have them, ending with what a user said."""

from __future__ import annotations

from tomoni.records import Message

CONVERSATIONS = (
    (Message("user", "こんにちは。"),),
    (Message("system", "短く答えて。"), Message("user", "ｶﾀｶﾅ と 🙂 は？")),
    (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "二行\nの質問")),
    (
        Message("system", "Be brief."),
        Message("user", "1 + 1?"),
        Message("assistant", "2"),
        Message("user", 'and "2 + 2" {{ here }}?'),
    ),
)
