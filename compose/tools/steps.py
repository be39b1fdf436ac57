"""What a proof is made of: steps that go well or not, one line each, and an end that comes from outside."""

from collections.abc import Callable
from time import monotonic

from say import Trouble


class Over(Exception):
    """Time is up, or somebody wants the end: no step goes on."""


class Steps:
    """Does steps, and counts how many of them went well."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def step(self, name: str, run: Callable[[], str]) -> bool:
        """`run` says in figures what it saw."""
        begun = monotonic()
        try:
            figures = run()
        except (Trouble, AssertionError, OSError, KeyError, ValueError) as trouble:
            self.failed += 1
            print(f"FAILED  {name}: {type(trouble).__name__}: {trouble}", flush=True)
            return False
        self.passed += 1
        print(f"ok      {name} ({monotonic() - begun:.0f} s): {figures}", flush=True)
        return True

    def over(self, why: Exception) -> None:
        """It did not come to its end."""
        self.failed += 1
        print(f"FAILED  {why}", flush=True)

    def sum(self) -> int:
        """Says how many went well; the exit code."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
