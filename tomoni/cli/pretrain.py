"""`tomoni pretrain [CONFIG] [--key value]`: training on plain text."""

from __future__ import annotations

from tomoni.cli import training
from tomoni.settings.pretrain import Config

USAGE = "tomoni pretrain [CONFIG] --train_file FILE --output_dir FOLDER [--model_name_or_path MODEL] [--key value …]"
ABOUT = """Trains on plain text: a model of its own from scratch, with a tokenizer made from the text, or MODEL further.
Started again after it was stopped or killed, it goes on from its last checkpoint, exactly."""


def command(argv: list[str]) -> int:
    if training.wants_help(argv):
        print(training.method_help(USAGE, ABOUT, Config))
        return 0
    return training.train(training.read_config({"pretrain": Config}, argv))
