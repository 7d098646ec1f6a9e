"""Masked pretraining: whole words are hidden, drawn by seed, epoch and record; from scratch, and further."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests import tiny
from tests.run.test_tasks import Stopping
from tomoni import losses
from tomoni.data.masking import LOOKING, Masking
from tomoni.data.tasks import TaskRenderer
from tomoni.engine import masked
from tomoni.engine.engine import Engine
from tomoni.errors import ConfigError, ModelError
from tomoni.records import Source, Text
from tomoni.rows import Item
from tomoni.run import start
from tomoni.run.outcome import Result
from tomoni.settings.pretrain import Config, Shape

STORY = "むかし、山田さんは東京の大学でパンを食べた。And Mary went to New York by bus."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.jsonl"
    lines = [json.dumps({"text": f"{STORY}{n}回。" * 2}, ensure_ascii=False) + "\n" for n in range(24)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def settings(text: Path, output: Path, **changes: Any) -> Config:
    given: dict[str, Any] = {
        "objective": "mlm", "train_file": str(text), "output_dir": str(output), "max_length": 64, "batch_size": 4,
        "max_steps": 6, "save_steps": 2, "device": "cpu", "threads": 1, "learning_rate": 3e-3, "warmup_ratio": 0.0,
    }  # fmt: skip
    return Config(**{key: value for key, value in (given | changes).items() if value is not None})


def train(text: Path, output: Path, **changes: Any) -> Result:
    return start(settings(text, output, **changes))


def an_item() -> Item:
    [row] = TaskRenderer(tiny.encoder_tokenizer(), max_length=512).words(Text("1", Source("f", 1), STORY))
    return Item("1", (row,))


def masking(seed: int = 0, share: float = 0.15) -> Masking:
    return Masking(share, 260, np.arange(256, dtype=np.int32), seed)


def test_whole_words_are_hidden_and_about_the_wanted_share_of_tokens() -> None:
    item = an_item()
    row = item.rows[0]
    words = row.offsets[:, 0] if row.offsets is not None else np.zeros(0)
    shares, hidden = [], 0
    for epoch in range(200):
        [masked] = masking()([item], [epoch])
        found = masked.rows[0]
        chosen = found.weights > 0
        shares.append(chosen.sum() / (words >= 0).sum())
        assert not chosen[words < 0].any()
        for word in np.unique(words[chosen]):
            assert chosen[words == word].all()
            hidden += bool((found.tokens[words == word] == 260).all())
        assert found.targets is not None and found.targets.tolist() == row.tokens.tolist()
        assert (found.tokens[~chosen] == row.tokens[~chosen]).all()
    assert np.mean(shares) == pytest.approx(0.15, abs=0.03)


def test_what_is_hidden_depends_on_seed_epoch_and_record_and_on_nothing_else() -> None:
    item, other = an_item(), Item("2", an_item().rows)
    one = masking()([item, other], [3, 3])
    alone = masking()([item], [3])
    assert one[0].rows[0].tokens.tolist() == alone[0].rows[0].tokens.tolist()
    kinds = [masking()([item], [4]), masking(seed=1)([item], [3]), [one[1]], masking()([item], [LOOKING])]
    assert all(kind[0].rows[0].tokens.tolist() != alone[0].rows[0].tokens.tolist() for kind in kinds)


def test_chosen_words_are_hidden_replaced_and_kept_in_the_usual_shares() -> None:
    item, counts = an_item(), np.zeros(3)
    for epoch in range(600):
        [masked] = masking(share=0.02)([item], [epoch])  # one word at a time
        found = masked.rows[0]
        places = np.flatnonzero(found.weights)
        kept = (found.tokens[places] == item.rows[0].tokens[places]).all()
        counts += [(found.tokens[places] == 260).all(), not kept and (found.tokens[places] != 260).any(), kept]
    np.testing.assert_allclose(counts / 600, [0.8, 0.1, 0.1], atol=0.05)


@pytest.mark.parametrize("architecture", tiny.ENCODERS)
def test_the_loss_is_plain_transformers_and_the_head_runs_at_hidden_places_only(architecture: str) -> None:
    model = tiny.encoder(architecture)
    items = masking()([an_item(), Item("2", an_item().rows)], [0, 0])
    total, count = 0.0, 0.0
    for item in items:
        row = item.rows[0]
        with torch.no_grad():
            logits = model(torch.from_numpy(row.tokens.astype(np.int64))[None]).logits[0].double()
        for place in np.flatnonzero(row.weights):
            total -= float(logits[place].log_softmax(-1)[int(row.targets[place])])  # type: ignore[index]
            count += 1
    cfg = Config(train_file="t", output_dir="o", objective="mlm", threads=1)
    engine = Engine(model, trained=dict(model.named_parameters()), cfg=cfg)
    assert engine.forward.split  # body and head apart
    for budget in (1, 10_000):
        engine.budget = engine.looking_budget = budget
        assert engine.evaluate(items, losses.nll)["loss"].value == pytest.approx(total / count, rel=1e-4)
        assert engine.forward_backward(items, losses.nll)["loss"].value == pytest.approx(total / count, rel=1e-4)


def test_an_encoder_from_scratch_learns_and_plain_transformers_loads_it(text: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}  # fmt: skip
    result = train(
        text,
        tmp_path / "run",
        max_steps=60,
        shape=shape,
        vocabulary={"vocab_size": 400, "split_scripts": True},
        validation_share=0.2,
    )
    assert result.before is not None and result.after is not None and result.model is not None
    assert result.after.loss < 0.7 * result.before.loss
    theirs, info = AutoModelForMaskedLM.from_pretrained(result.model, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(result.model)
    ids = tokenizer(f"むかし、山田さんは{tokenizer.mask_token}の大学")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert theirs(torch.tensor([ids])).logits.shape == (1, len(ids), theirs.config.vocab_size)


def test_a_new_model_has_no_dropout_and_a_step_to_the_next_place_is_the_same_turn_everywhere() -> None:
    shape = Shape(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128)
    made = masked.new_model(shape, tiny.encoder_tokenizer(), seed=3)
    assert all(module.p == 0 for module in made.modules() if isinstance(module, torch.nn.Dropout))
    positions = made.bert.embeddings.position_embeddings.weight.detach()
    near = torch.nn.functional.cosine_similarity(positions[:-1], positions[1:])
    far = torch.nn.functional.cosine_similarity(positions[:-9], positions[9:])
    assert float(near.std()) < 1e-4 and float(far.std()) < 1e-4
    assert float(near.mean()) > float(far.mean())
    # about as large as what is drawn
    drawn = made.bert.embeddings.word_embeddings.weight.detach()
    assert float(positions.std()) == pytest.approx(float(drawn.std()), rel=0.2)
    again = masked.new_model(shape, tiny.encoder_tokenizer(), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def digest(folder: Path) -> dict[str, str]:
    last = folder / "checkpoints" / "step-000006"
    files = [folder / "ledger.jsonl", *(last / name for name in ("weights.safetensors", "optimizer.safetensors"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_continued_run_that_was_killed_hides_the_same_words_again(text: Path, tmp_path: Path) -> None:
    model = tiny.encoder_folder(tmp_path / "model", dropout=0.1)
    options = {"model_name_or_path": str(model), "max_length": 128}
    train(text, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        start(settings(text, tmp_path / "cut", **options), on_event=Stopping(3))
    train(text, tmp_path / "cut", **options)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_a_decoder_has_nothing_to_hide_words_behind(text: Path, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ModelError), match="mask"):
        train(text, tmp_path / "run", model_name_or_path=str(tiny.folder(tmp_path / "llama")))
