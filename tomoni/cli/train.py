"""`tomoni train CONFIG [--key value]`: run the method that the config names."""

from __future__ import annotations

from tomoni.cli import training
from tomoni.run.methods import METHODS, config_class

HELP = f"""Usage: tomoni train CONFIG [--key value …]

Runs the method that CONFIG (YAML) names with its key `method:` ({", ".join(METHODS)}), in the folder `output_dir`.
Started again after it was stopped or killed, it goes on from its last checkpoint, exactly.
{training.OVERRIDES}

The keys of a method, with their defaults: {", ".join(f"tomoni {name} --help" for name in METHODS)}"""


def command(argv: list[str]) -> int:
    if training.wants_help(argv):
        print(HELP)
        return 0
    return training.train(training.read_config({name: config_class(name) for name in METHODS}, argv))
