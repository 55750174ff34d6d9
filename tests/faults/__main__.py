"""Inject faults into agents, server and broker, and check that nothing breaks: ``make soak FAULTS=500 SEED=1``.

    python -m tests.faults --faults N --seed K [--first EPISODE] [--every SECONDS] [--agents N] [--json] [--verbose]

The faults come in episodes of 25. The schedule of each depends on the seed and on its number, so ``--first 7``
continues a run that was interrupted in its eighth. Four agents answer ten frames a second. A fifth one, with a server
and a broker of its own, has no faults: it tells how many frames are late on this machine anyway. Exit code 1: an
invariant is broken (``tests/faults/watch.py`` lists them), or more frames are late under faults than without.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.faults.processes import end_on_sigterm
from tests.faults.soak import Result, episode
from tests.faults.watch import later

_EPISODE = 25


def run(
    faults: int,
    seed: int,
    first: int,
    every_s: float,
    agents: int,
    longest_s: float,
    work: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The report as ``--json`` prints it; see ``main`` for the arguments."""
    begun, results = time.monotonic(), []
    for number in range(first, -(-faults // _EPISODE)):
        count = min(_EPISODE, faults - number * _EPISODE)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                directory = Path(scratch) if work is None else work / f"episode{number}"
                directory.mkdir(parents=True, exist_ok=work is None)
                done = episode(directory, f"{seed}/{number}", count, every_s, agents, longest_s, say)
        except KeyboardInterrupt:
            say(f"interrupted; --first {number} continues")
            break
        results.append(done)
        late = " and ".join(f"{sum(own for own, _ in windows)}" for windows in (done.faulty, done.control))
        say(f"episode {number}: {count} faults in {done.seconds} s, {len(done.violations)} violations, {late} late")
        for line in done.violations:
            say(f"  {line}")
    return report(results, seed, first) | {"seconds": round(time.monotonic() - begun)}


def report(results: Sequence[Result], seed: int, first: int) -> dict[str, Any]:
    """The sums of all episodes."""
    kinds: Counter[str] = Counter()
    if not results:
        raise SystemExit("no episode has ended")
    for done in results:
        kinds.update(done.faults)
    faulty = [window for done in results for window in done.faulty]
    control = [window for done in results for window in done.control]
    difference = later(faulty, control)
    violations = [f"episode {first + at}: {line}" for at, done in enumerate(results) for line in done.violations]
    if difference[1] > 0:
        violations.append(f"{difference[0]:.2%} more frames are late under faults than without")
    return {
        "seed": seed,
        "first": first,
        "faults": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "answers": sum(done.answers for done in results),
        "cloud": sum(done.cloud for done in results),
        "audits": [sum(done.audits[which] for done in results) for which in range(2)],
        "late": [sum(late for late, _ in windows) for windows in (faulty, control)],
        "frames": [sum(frames for _, frames in windows) for windows in (faulty, control)],
        "late_difference": [round(value, 5) for value in difference],
        "violations": violations,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faults", type=int, default=100, help="number of faults (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the schedule (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="episode of 25 faults to begin with (default: 0)")
    parser.add_argument("--every", type=float, default=3.0, help="mean seconds between two faults (default: 3)")
    parser.add_argument("--agents", type=int, default=4, help="number of agents under faults (default: 4)")
    parser.add_argument("--longest", type=float, default=16.0, help="longest fault, seconds (default: 16)")
    parser.add_argument("--work", type=Path, help="new directory for outputs and logs (default: none is kept)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a line")
    parser.add_argument("--verbose", action="store_true", help="print each fault on standard error")
    chosen = parser.parse_args()

    def say(line: str) -> None:
        if chosen.verbose or not line.endswith(("begins", "ends")):
            print(line, file=sys.stderr, flush=True)

    end_on_sigterm()
    found = run(chosen.faults, chosen.seed, chosen.first, chosen.every, chosen.agents, chosen.longest, chosen.work, say)
    if chosen.json:
        print(json.dumps(found))
    else:
        late = [f"{late} of {frames}" for late, frames in zip(found["late"], found["frames"], strict=True)]
        print(
            f"{found['faults']} faults in {found['seconds']} s: {len(found['violations'])} violations; "
            f"{found['answers']} answers, {found['cloud']} of the server; late: {late[0]} frames, "
            f"{late[1]} without faults; {found['audits'][1]} of {found['audits'][0]} audits judged"
        )
    raise SystemExit(1 if found["violations"] else 0)


if __name__ == "__main__":
    main()
