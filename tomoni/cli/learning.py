"""`tomoni dpo`, `tomoni grpo` and the other verbs that learn from preferences and rewards."""

from __future__ import annotations

from tomoni.cli import training
from tomoni.run.methods import config_class

DATA = {
    "dpo": "pairs: prompt, chosen, rejected",
    "orpo": "pairs: prompt, chosen, rejected",
    "simpo": "pairs: prompt, chosen, rejected",
    "reward": "pairs: prompt, chosen, rejected",
    "classify": "texts with a class (text, label; a list of labels for several) or pairs (sentence1, sentence2, label)",
    "regress": "texts with a number (text, label) or pairs (sentence1, sentence2, label)",
    "tag": "texts with marked spans (text, spans: start, end, type) or words with tags (tokens, ner_tags)",
    "span": "questions on contexts in SQuAD's form (question, context, answers; or nested)",
    "kto": "thumbs: prompt, completion, label (true or false)",
}
PROMPTS = "prompts (column prompt), or conversations whose last answer is left out; reward_funcs says what scores"


def command(argv: list[str], method: str) -> int:
    settings = config_class(method)
    if training.wants_help(argv):
        usage = (
            f"tomoni {method} [CONFIG] --model_name_or_path MODEL --train_file FILE --output_dir FOLDER [--key value …]"
        )
        about = f"train_file holds {DATA.get(method, PROMPTS)}. See docs/methods/{method}.md."
        print(training.method_help(usage, about, settings))
        return 0
    return training.train(training.read_config({method: settings}, argv))
