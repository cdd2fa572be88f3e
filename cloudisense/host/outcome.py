"""What a step did, or why it could not."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the executor counted. It is a claim: whether the trouble is gone is measured elsewhere."""

    freed_bytes: int
    files: int
    detail: str
    """One short clause for people."""


class StepFailed(Exception):
    """A step could not be done, or not to its end; what it had freed by then is counted all the same."""

    def __init__(self, reason: str, freed_bytes: int = 0, files: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.freed_bytes = freed_bytes
        self.files = files


def words(error: OSError) -> str:
    """An operating system error in words, without paths: names of files stay on the host."""
    return (error.strerror or type(error).__name__).lower()
