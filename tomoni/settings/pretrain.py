"""Pretraining on plain text: from scratch with a tokenizer of its own, or continued from an existing model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tomoni.config import Frozen
from tomoni.settings.common import Beta, Filled, Phase, TrainingSettings
from tomoni.settings.replay import ReplaySettings, replay_phases


class Shape(Frozen):
    """A Llama-shaped decoder to start from scratch; with objective mlm a BERT, which has no num_key_value_heads and
    rope_theta."""

    hidden_size: Annotated[int, Field(ge=8)] = 256
    intermediate_size: Annotated[int, Field(ge=8)] = 512
    num_hidden_layers: Annotated[int, Field(ge=1)] = 3
    num_attention_heads: Annotated[int, Field(ge=1)] = 4
    num_key_value_heads: Annotated[int, Field(ge=1)] = 2
    max_position_embeddings: Annotated[int, Field(ge=16)] = 1024
    tie_word_embeddings: bool = True
    rope_theta: float = 10_000.0

    @model_validator(mode="after")
    def _divides(self) -> Shape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class Vocabulary(Frozen):
    """A tokenizer to train on the text."""

    kind: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, Field(ge=300)] = 8000
    pre_tokenizer: Literal["gpt2", "qwen2"] = "qwen2"  # splits that llama.cpp knows
    split_scripts: bool = False  # no token joins hiragana, katakana and kanji


FORMS = ("text",)  # of data that it learns from


class Config(TrainingSettings, ReplaySettings):
    method: Literal["pretrain"] = "pretrain"
    objective: Literal["causal", "mlm"] = "causal"  # mlm: hidden words are guessed from both sides (BERT)
    mlm_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15  # mlm: the share of tokens that are guessed
    model_name_or_path: Filled | None = None  # None: from scratch, with `shape` and `vocabulary`
    tokenizer: Filled | None = None  # from scratch: a folder whose tokenizer is used instead of a new one
    shape: Shape = Shape()
    vocabulary: Vocabulary = Vocabulary()
    # documents are packed into items of about this many tokens; rows never cross a document's border
    max_length: Annotated[int, Field(ge=2)] = 512
    packing: bool = True
    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    adam_beta2: Beta = 0.95

    @model_validator(mode="after")
    def _one_start(self) -> Config:
        if self.model_name_or_path and self.tokenizer:
            raise ValueError("tokenizer: a continued pretraining keeps the model's own tokenizer; remove this key")
        if not self.model_name_or_path and self.train != "all":
            raise ValueError(f"train: {self.train} stands on a trained model; name one, or train: all from scratch")
        if self.replay_file and (self.objective == "mlm" or not self.model_name_or_path):
            raise ValueError(
                "replay_file is for a decoder that knows something already: name one, with objective: causal, or remove it"
            )
        return self


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (*replay_phases(cfg), Phase("train", models=("policy",), passes=("forward", "backward", "update")))
