"""`tomoni init FOLDER`: a folder to start from, with a commented config, sample data and the next commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tomoni.cli.options import invoke
from tomoni.errors import DiskError, UserError

CONFIG = """\
# A fine-tuning run. Every key and its meaning: the page of the method in tomoni's docs.
# Any key can be given on the command line as well: tomoni train sft.yaml --learning_rate 1e-4

method: sft                       # prompts and the answers you want
model_name_or_path: bundled:small # or a folder, or org/name@revision from a hub
output_dir: runs/first            # the run's folder; must not exist yet

# data: one JSON object a line; paths start where you run the command
train_file: train.jsonl
validation_share: 0.2             # held out, to see whether it became better; or validation_file: FILE
max_length: 256                   # tokens of a row; longer rows stop the run unless on_long_rows says otherwise

# what is trained: all | top:2 (the last two layers) | head | lora | ...
train: all
# lora_r: 16                      # with train: lora
# lora_alpha: 32

# how
num_train_epochs: 20              # passes over the data: many for a handful of rows, 2 to 5 for thousands
batch_size: 4                     # rows per step; memory does not depend on it
learning_rate: 5e-4               # 1e-4 to 5e-4 for small models and LoRA; 1e-5 for large models with all weights
lr_scheduler_type: cosine
warmup_ratio: 0.1
weight_decay: 0.0
seed: 0

# while it runs
eval_steps: 0                     # measure every N steps; 0: at the start and the end
save_steps: 0                     # save every N steps; 0: about every 5 minutes
save_total_limit: 2               # checkpoints kept besides the best
"""

SAMPLE = (
    ("When does the bakery open?", "The bakery opens at seven in the morning."),
    ("What time can I buy bread?", "You can buy bread from seven in the morning."),
    ("When does the bakery close?", "The bakery closes at six in the evening."),
    ("Is the bakery open on Monday?", "No, the bakery is closed on Mondays."),
    ("How much is a melon bun?", "A melon bun is 180 yen."),
    ("What does a curry bun cost?", "A curry bun is 220 yen."),
    ("Can I pay by card?", "Yes, the bakery takes cards and cash."),
    ("Where is the bakery?", "The bakery is across from the station."),
    ("パン屋は何時に開きますか。", "朝七時に開きます。"),
    ("パンは何時から買えますか。", "朝七時から買えます。"),
    ("パン屋は何時に閉まりますか。", "夕方六時に閉まります。"),
    ("月曜日も開いていますか。", "いいえ、月曜日はお休みです。"),
    ("メロンパンはいくらですか。", "メロンパンは180円です。"),
    ("カレーパンの値段を教えてください。", "カレーパンは220円です。"),
    ("カードで払えますか。", "はい、カードでも現金でもお支払いいただけます。"),
    ("パン屋はどこにありますか。", "駅の向かいにあります。"),
)

NOTES = """\
# Start here / はじめに

`train.jsonl` holds one question and the wanted answer a line; replace it by your own. `sft.yaml` says how to train.

`train.jsonl` には、質問と望ましい答えが一行に一組ずつ入っています。ご自分のデータに置き換えてください。
学習の設定は `sft.yaml` にあります。

    tomoni check sft.yaml          # look at the data as the model will see it / モデルから見たデータを確かめる
    tomoni train sft.yaml          # train, and measure before and after / 学習し、前後を測って比べる
    tomoni chat runs/first         # talk with the result / 出来上がったモデルと話す
"""


def command(argv: list[str]) -> int:
    return invoke(init, argv, verb="init")


def init(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="made if it does not exist")]) -> None:
    """Make FOLDER with a commented config (sft.yaml), sample data (train.jsonl) and a README; overwrites nothing."""
    write(folder)
    print(f"made {folder}: sft.yaml, train.jsonl, README.md")
    print(f"next: cd {folder} && tomoni check sft.yaml && tomoni train sft.yaml")


def write(folder: Path) -> None:
    """Raises UserError where a file already exists, DiskError where the folder cannot be written."""
    rows = [json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in SAMPLE]
    texts = {"sft.yaml": CONFIG, "train.jsonl": "\n".join(rows) + "\n", "README.md": NOTES}
    there = sorted(name for name in texts if (folder / name).exists())
    if there:
        raise UserError(f"{folder} already has {', '.join(there)}", next_step="name a new folder; nothing was changed")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                written.append(folder / name)
                file.write(content)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise DiskError(f"{folder} cannot be written: {error.strerror}", next_step="name another folder") from error
