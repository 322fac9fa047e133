"""The command ``longreach``: ``python -m longreach`` is the same."""

from __future__ import annotations

import signal
import sys

from longreach import _core


def main() -> int:
    """Run the command line and return its exit status."""
    # As in the program: Ctrl-C ends it at once, unless a command watches for it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _core.main(["longreach", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
