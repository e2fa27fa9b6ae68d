"""The program ``resurgsam2``, also ``python -m resurgsam2_cli``."""

from __future__ import annotations

import signal
import sys

from resurgsam2_cli.errors import INTERRUPTED, UserError
from resurgsam2_cli.interrupts import Interrupted, interruptible
from resurgsam2_cli.tuning import prepare_environment


def main() -> None:
    """Run the command line; its exit code is one of those in :mod:`resurgsam2_cli.errors`."""
    prepare_environment()
    from resurgsam2_cli.app import app

    with interruptible(signal.SIGINT, signal.SIGTERM):
        try:
            app()
        except UserError as error:
            print(f"resurgsam2: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"  {error.hint}", file=sys.stderr)
            sys.exit(error.exit_code)
        except Interrupted:
            print("resurgsam2: interrupted; nothing unfinished was left under a final name", file=sys.stderr)
            sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
