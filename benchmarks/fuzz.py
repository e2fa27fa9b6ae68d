"""The properties of ``tests/test_fuzz.py`` for as long as is wanted, in turn.

    python -m benchmarks.fuzz [--minutes 30] [--examples 500] [--only text] [--memory 4096]

Each round of a property is a process of its own: a crash, more memory than ``--memory`` MiB, or a round that takes more
than five minutes is a finding as much as an input for which the property does not hold. A property that failed is left
out from then on; what it failed on is kept in ``.hypothesis`` and tried first by the tests. Exits with 1 if any failed.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_LONGEST = 300  # seconds of a round


def main() -> None:
    """Print a line for each finding, and how many inputs each property was tried on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--examples", type=int, default=500, help="of a round")
    parser.add_argument("--only", default="", help="a part of the names of properties")
    parser.add_argument("--memory", type=int, default=4096, help="MiB that a round may take beside what is loaded")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    properties = {name: x for name, x in _properties(options.examples).items() if options.only in name}
    rounds, failed = Counter[str](), set[str]()
    for name in itertools.cycle(properties):
        if time.monotonic() > end or failed == properties.keys():
            break
        if name in failed:
            continue
        rounds[name] += 1
        why = _round(properties[name], options.memory)
        if why:
            failed.add(name)
            print(f"{name}: {why}", flush=True)
    for name, number in rounds.items():
        print(f"{name}: {number} rounds, {'failed' if name in failed else 'good'}")
    sys.exit(1 if failed else 0)


def _properties(examples: int) -> dict[str, Callable[[], None]]:
    """The tests that hypothesis draws inputs for, by name."""
    os.environ["RESURGSAM2_FUZZ_EXAMPLES"] = str(examples)  # read when the module is loaded
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import test_fuzz

    return {name: x for name, x in inspect.getmembers(test_fuzz, inspect.isfunction) if hasattr(x, "hypothesis")}


def _round(test: Callable[[], None], memory: int) -> str:
    """Why a round failed; empty if it did not."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(test, memory))
    process.start()
    process.join(_LONGEST)
    if process.exitcode is None:
        process.kill()
        process.join()
        return f"took more than {_LONGEST} s"
    if process.exitcode < 0:
        return f"ended by signal {-process.exitcode}"
    return "see above" if process.exitcode else ""


def _run(test: Callable[[], None], memory: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        test()
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
