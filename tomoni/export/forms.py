"""The forms that a model can be given, by name. Imports nothing heavy, so that a wrong name is said at once."""

from __future__ import annotations

from typing import Final

GGUF: Final = ("f32", "f16", "bf16", "q8_0", "q5_1", "q4_0")  # in the order of their size
FORMS: Final = {"hf": ("f32", "f16", "bf16"), "gguf": GGUF, "onnx": ("f32", "int8")}
DEFAULTS: Final = {"hf": "f32", "gguf": "f16", "onnx": "f32"}
