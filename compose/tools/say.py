"""What the scripts say, and where: progress on standard error with the time it took, results on standard output."""

import sys
from time import monotonic

BEGUN = monotonic()


class Trouble(RuntimeError):
    """Something that the caller can do something about; the text says what."""


def say(text: str) -> None:
    """Tells what is going on, for long work."""
    print(f"[{monotonic() - BEGUN:5.1f} s] {text}", file=sys.stderr, flush=True)
