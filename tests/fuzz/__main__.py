"""``python -m tests.fuzz --cases 10000``: hostile configs and corpus files, in numbers.

Every case depends on its number and the seed alone: ``--first N --cases 1`` makes a reported one again.
"""

from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="200")

import argparse
import collections
import resource
import sys
import tempfile
from pathlib import Path

import datasets

from tests.fuzz.cases import check_case, check_process

SAMPLED = 500  # cases of which one is given to a process of its own too
MEMORY = 32 << 30  # bytes of address space: what a config makes explode fails here and not on the machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="show what every command says")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    codes: collections.Counter[str] = collections.Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as top:
        datasets.config.HF_DATASETS_CACHE = Path(top) / "cache"
        for number in range(options.first, options.first + options.cases):
            outcomes = check_case(options.seed, number, Path(top) / str(number))
            codes[" ".join(str(outcome.code) for outcome in outcomes)] += 1
            if number % SAMPLED == 0:
                print(f"case {number} of {options.first + options.cases}", flush=True)
                outcomes.append(check_process(options.seed, number, Path(top) / f"{number}-process"))
            if options.verbose:
                print(number, outcomes[1].said, end="")
            for outcome in outcomes:
                if outcome.fault:
                    faults += 1
                    print(f"case {number}: {outcome.fault}\n", flush=True)
    print(f"{options.cases} cases, {faults} faults; exit codes of plan, run and run again: {dict(codes)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
