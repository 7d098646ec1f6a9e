"""python -m bench run [NAME ...] measures; python -m bench report writes docs/benchmarks.md; python -m bench list."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench import floor, machine, report
from bench.shapes import SHAPES
from bench.turns import (
    Failed,
    Outcome,
    Pythons,
    Side,
    Verdict,
    in_turn,
    once,
    ratios,
    same_answers,
    same_losses,
    same_updates,
    summary,
)
from bench.work import Work
from bench.workloads import Size, Workload, workloads

RESULTS = Path(__file__).with_name("results")
SMALL = Size(steps=3, equal_steps=5, prompts=6, questions=48, repeats=1)


def main() -> int:
    options = _parse()
    if options.verb == "report":
        report.write(RESULTS)
        return 0
    size = (
        SMALL if options.small else Size(steps=options.steps, equal_steps=options.equal_steps, repeats=options.repeats)
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        known = workloads(folder, size)
        if options.verb == "list":
            print("\n".join(f"{name:20} {workload.title}" for name, workload in known.items()))
            return 0
        if unknown := sorted(set(options.names) - set(known)):
            print(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
        bench = Bench(folder, size, Pythons(options.ours, options.peers), options.threads, tried=options.tried)
        results = Path(options.results)
        unequal = [name for name in options.names or known if not bench.measure(known[name], results)]
    if unequal:
        print(f"not comparable (the sides computed different things, or one failed): {', '.join(unequal)}")
    return 1 if unequal else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("verb", choices=("run", "report", "list"))
    parser.add_argument("names", nargs="*", help="workloads (default: all)")
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="the peers' interpreter")
    parser.add_argument("--ours", default=sys.executable, help="our interpreter (default: this one)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every measured process")
    parser.add_argument("--repeats", type=int, default=5, help="turns; medians are over them (default: 5)")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of training (default: 40)")
    parser.add_argument(
        "--equal-steps", type=int, default=100, help="steps over which losses must agree (default: 100)"
    )
    parser.add_argument("--small", action="store_true", help="a trial of the machinery: tiny sizes, one turn")
    parser.add_argument("--tried", action="store_true", help="also the peers' other settings, once each")
    parser.add_argument("--results", default=str(RESULTS), help="folder of the results")
    parser.add_argument("--folder", default=None, help="where models and data are made (default: a temporary one)")
    return parser.parse_intermixed_args()


class Bench:
    def __init__(self, folder: Path, size: Size, pythons: Pythons, threads: int, *, tried: bool) -> None:
        self.folder, self.size, self.pythons, self.threads, self.tried = folder, size, pythons, threads, tried

    def measure(self, workload: Workload, results: Path) -> bool:
        """Measure, write the result; whether every side ended and computed the same as its pair."""
        print(f"{workload.name}: {workload.title}", flush=True)
        workload.write(self.folder)
        for job in workload.prepare:
            self.run(Side("prepare", True, "prepare", job))
        rates: list[float] = []
        found, failed = in_turn(
            workload.sides,
            lambda side: self._calibrated(side, workload.sides[0], rates),
            repeats=self.size.repeats,
            tell=_say,
        )
        result = {
            "name": workload.name,
            "title": workload.title,
            "about": workload.about,
            "machine": machine.about(self.pythons) | {"threads": self.threads},
            "rate": float(np.median(rates)),
            "sides": {name: summary(outcomes) for name, outcomes in found.items()},
            "failed": failed,
            "pairs": self._pairs(workload, found),
            "tried": self._tried(workload),
        }
        self._add_floors(workload, result)
        results.mkdir(parents=True, exist_ok=True)
        path = results / f"{workload.name}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return not failed and all(pair["equal"] is not False for pair in result["pairs"])

    def run(self, side: Side) -> Outcome:
        return once(side, self.pythons, self.folder, threads=self.threads)

    def _calibrated(self, side: Side, first: Side, rates: list[float]) -> Outcome:
        if side is first:  # once a turn
            rates.append(self.run(Side("rate", True, "calibrate"))["rate"])
        return self.run(side)

    def _pairs(self, workload: Workload, found: dict[str, list[Outcome]]) -> list[dict[str, Any]]:
        longer, why = self._longer(workload)
        made = []
        for pair in workload.pairs:
            if pair.ours not in found or pair.peer not in found:
                continue
            verdicts = []
            if why and pair.same in ("updates", "losses"):  # what was measured is kept, and not called equal
                verdicts.append(Verdict(False, why))
            elif pair.same == "updates":
                verdicts.append(same_updates(*longer.values()))
            elif pair.same:
                ours, peer = found[pair.ours][0], found[pair.peer][0]
                verdicts.append(self._same(workload, pair.same, ours, peer))
            if pair.same == "losses" and longer and not why:
                verdicts.append(self._same(workload, "losses", *longer.values()))
            made.append(
                {
                    "ours": pair.ours,
                    "peer": pair.peer,
                    "goal": pair.goal,
                    "memory_goal": pair.memory_goal,
                    **ratios(found[pair.ours], found[pair.peer]),
                    "equal": all(verdict.equal for verdict in verdicts) if verdicts else None,
                    "said": "; ".join(dict.fromkeys(verdict.said for verdict in verdicts)),
                }
            )
        return made

    def _longer(self, workload: Workload) -> tuple[dict[str, Outcome], str]:
        """Of the sides that only show that both compute the same; and why one of them did not end."""
        try:
            return {side.name.split(",")[0]: self.run(side) for side in workload.longer}, ""
        except Failed as error:
            _say(f"  not compared: {error}")
            return {}, f"the comparison failed: {str(error)[:200]}"

    def _same(self, workload: Workload, what: str, ours: Outcome, peer: Outcome) -> Verdict:
        if what == "losses":
            return same_losses(ours["losses"], peer["losses"])
        job = {**workload.prepare[0], "ours": ours["answers"], "theirs": peer["answers"]}
        return same_answers(
            ours["answers"],
            peer["answers"],
            lambda parted: self.run(Side("margins", True, "margins", job | {"parted": parted}))["gaps"],
        )

    def _tried(self, workload: Workload) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for side in workload.tried if self.tried else ():
            try:
                found[side.name] = summary([self.run(side)])
                _say(f"  tried {side.name}: {found[side.name]['seconds']:.2f} s")
            except Failed as error:
                found[side.name] = {"failed": str(error)}
                _say(f"  tried {side.name}: {error}")
        return found

    def _add_floors(self, workload: Workload, result: dict[str, Any]) -> None:
        for name, file in workload.works.items():
            if name in result["sides"]:
                rows = Work.load(self.folder / file)
                operations = floor.steps(
                    SHAPES[workload.shape],
                    [rows.counts(step) for step in range(rows.steps)],
                    workload.train,
                    kept_from=workload.kept_from,
                )
                result["sides"][name]["floor_seconds"] = operations / result["rate"]


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
