"""`tomoni sft [CONFIG] [--key value]`: supervised fine-tuning."""

from __future__ import annotations

from tomoni.cli import training
from tomoni.settings.sft import Config

USAGE = "tomoni sft [CONFIG] --model_name_or_path MODEL --train_file FILE --output_dir FOLDER [--key value …]"
ABOUT = """Fine-tunes a model on prompts and the answers you want. MODEL is a folder, org/name of a hub, or bundled:small.
Started again after it was stopped or killed, it goes on from its last checkpoint, exactly."""


def command(argv: list[str]) -> int:
    if training.wants_help(argv):
        print(training.method_help(USAGE, ABOUT, Config))
        return 0
    return training.train(training.read_config({"sft": Config}, argv))
