"""`tomoni learn WORKSPACE`: what people said becomes a candidate version; the Learn button of the studio."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tomoni.errors import UserError
from tomoni.feedback.workspace import find


def command(argv: list[str]) -> int:
    options = _parse(argv)
    workspace = Path(options.workspace).expanduser()
    if not workspace.is_dir():
        raise UserError(
            f"there is no workspace {options.workspace!r}", next_step="name the folder that the studio was started with"
        )
    from tomoni.loop.learn import Plan, learn
    from tomoni.loop.replay import require_share

    plan = Plan(workspace.resolve(), after=options.judgements_after, price_per_hour=options.price_per_hour)
    if options.prompts is not None:
        plan = replace(plan, prompts=options.prompts)
    if options.threads is not None:
        plan = replace(plan, threads=options.threads)
    if options.replay is not None:
        plan = replace(plan, replay=require_share(options.replay))
    find(workspace)
    folder = learn(plan)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        _show(result, folder, options.workspace)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tomoni learn",
        description="Make a candidate version from what people said in this workspace, and let it answer prompts that it "
        "was never trained on, before and after. It is not served until somebody promotes it.",
    )
    parser.add_argument("workspace", help="the folder that the studio was started with")
    parser.add_argument(
        "--judgements-after", type=int, default=0, metavar="N", help="only judgements after this number (default: all)"
    )
    parser.add_argument(
        "--prompts", type=int, help="prompts to learn from at most (default: 120); twice as many are answered"
    )
    parser.add_argument(
        "--replay",
        type=float,
        metavar="SHARE",
        help="share of what is learnt that is what the version was tuned on before, so that less of it is forgotten "
        "(0 to 0.9; default: 0, none)",
    )
    parser.add_argument("--threads", type=int, help="cores to train with (default: all)")
    parser.add_argument(
        "--price-per-hour", type=float, default=0.10, help="US dollars for an hour of this machine (default: 0.10)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")
    options = parser.parse_args(argv)
    for name in ("prompts", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} is below 1", next_step="give a number from 1 on")
    for name in ("judgements-after", "price-per-hour"):
        value = getattr(options, name.replace("-", "_"))
        if not 0 <= value < float("inf"):
            raise UserError(f"--{name} {value} is no number from 0 on", next_step="give such a number")
    return options


def _show(result: dict[str, Any], folder: Path, workspace: str) -> None:
    from tomoni.loop.words import replayed

    learnt = result["learnt_from"]
    parts = [f"{learnt[name]} {name}" for name in ("comparisons", "corrections", "thumbs") if learnt[name]]
    print(f"{result['version']} learnt from {', '.join(parts)}, in {result['seconds']} s (${result['cost']:.4f}).")
    if result["replayed"]["share"]:
        print(f"Replayed beside it: {replayed(result['replayed'])[0]}")
    if expected := result["expected_win_rate"]:
        print(
            f"Its answers should be preferred in {expected['value']:.0%} of cases ({expected['low']:.0%} to "
            f"{expected['high']:.0%}), as far as these judgements tell."
        )
    for trial in result["trials"][:4]:
        print(f"\n  {trial['prompt'][-1]['content']}\n    before  {trial['before']}\n    after   {trial['after']}")
    print(
        f"\n{folder}\nnext: judge before and after blind in the studio, or tomoni promote {workspace} {result['version']}"
    )
