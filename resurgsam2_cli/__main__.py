"""The program ``resurgsam2``, also ``python -m resurgsam2_cli``."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from resurgsam2_cli.errors import INTERRUPTED, UserError


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # SIGTERM cleans up as Ctrl-C does


def main() -> None:
    """Run the command line; its exit code is one of those in :mod:`resurgsam2_cli.errors`."""
    import click

    from resurgsam2_cli.app import app

    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except UserError as error:
        print(f"resurgsam2: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("resurgsam2: interrupted; nothing unfinished was left under a final name", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of --json went away
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
