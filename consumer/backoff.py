"""Pauses between attempts: exponential, with full jitter, so that many consumers do not come back at once."""

import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """The next pause grows twofold from `first_seconds` up to `most_seconds`; each is drawn from nought to that."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0
    attempts: int = 0

    def next_pause(self) -> float:
        ceiling = min(self.most_seconds, self.first_seconds * 2 ** min(self.attempts, 30))
        self.attempts += 1
        return random.uniform(0, ceiling)  # noqa: S311 # jitter is no secret

    def reset(self) -> None:
        self.attempts = 0
