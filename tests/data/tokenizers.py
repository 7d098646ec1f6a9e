"""Small tokenizers of the kinds that models have, and chat templates of the kinds that models have."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from tests import tiny
from tomoni.data.vocabulary import train_tokenizer

TEXTS = [
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want.",
    "user assistant system\n\nuser\nassistant\n  The year 2024, 100 yen.\n\n\n",
] * 3
KINDS = ("bytes", "bpe", "gpt2", "unigram", "metaspace", "metaspace_always")


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    match kind:
        case "bytes":
            return tiny.tokenizer()
        case "bpe":
            return train_tokenizer(TEXTS, vocab_size=400)
        case "gpt2":
            return train_tokenizer(TEXTS, vocab_size=400, pre_tokenizer="gpt2")
        case "unigram":
            return train_tokenizer(TEXTS, vocab_size=400, kind="unigram")
        case "metaspace":
            return _metaspace("first")
        case "metaspace_always":
            return _metaspace("always")
    raise ValueError(kind)


def _metaspace(scheme: Any) -> PreTrainedTokenizerBase:
    """As Llama 2's: a mark before the first word, bytes for what is unknown, a begin-of-text token put in front."""
    from tokenizers.processors import TemplateProcessing

    words = [
        "▁",
        "a",
        "b",
        "c",
        "▁a",
        "bc",
        "▁the",
        "t",
        "h",
        "e",
        "▁t",
        "he",
        "猫",
        "は",
        "▁猫",
        "I",
        "N",
        "S",
        "T",
        "[",
        "]",
        "/",
    ]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for word in [*(f"<0x{byte:02X}>" for byte in range(256)), *words]:
        vocabulary[word] = len(vocabulary)
    merges = [("▁", "a"), ("b", "c"), ("h", "e"), ("▁", "t"), ("▁t", "he"), ("▁", "猫")]
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made = TokenizersBackend(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = LLAMA2
    return made


CHATML = tiny.CHATML
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}"
    "{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# trims, calls the assistant model, has no room for a system message but in front of the first question
GEMMA = (
    "{% set first = namespace(text='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set first.text = m.content | trim + '\\n\\n' %}{% else %}"
    "{{ '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + first.text + m.content | trim"
    " + '<|im_end|>\\n' }}{% set first.text = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
)
# writes an empty thought before the last answer only
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' + m.content.lstrip('\\n') }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
# takes a thought in the answer apart, and drops it from all answers but the last
REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% set parts = m.content.split('</think>') %}{% if loop.last %}{{ '<think>\\n' + "
    "(parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '') + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ parts[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# asks for an answer with an opened thought that a finished conversation does not have
OPENED = CHATML.replace("'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>\\n' }}")
NO_END = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
UPPER = CHATML.replace("message['content']", "message['content'] | upper")
DROPPING = CHATML.replace("{% for message in messages %}", "{% for message in messages[-2:] %}")
TWICE = CHATML.replace("message['content']", "message['content'] + message['content']")
