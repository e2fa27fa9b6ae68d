"""The program ``resurgsam2``, also ``python -m resurgsam2_cli``."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from resurgsam2_cli.errors import INTERRUPTED, UserError


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM: unwinds everything, so that each part cleans up after itself."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; its exit code is one of those in :mod:`resurgsam2_cli.errors`."""
    from resurgsam2_cli.app import app

    before = {kind: signal.signal(kind, _interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        app()
    except UserError as error:
        print(f"resurgsam2: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except _Interrupted:
        print("resurgsam2: interrupted; nothing unfinished was left under a final name", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


if __name__ == "__main__":
    main()
