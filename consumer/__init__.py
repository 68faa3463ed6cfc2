"""Cabinet recovery: makes the matching engine's matches count, as they happen."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.handlers.outcome import JobResult

__all__ = ["run_job"]


def run_job(limit: int = 10_000) -> "JobResult":
    """Recover up to `limit` leads that are due, the most urgent first, and return the nine counts.

    What the hourly job's function of this name did: safe to repeat and to run beside anything. The database is
    DATABASE_URL's. Raises ValueError for a limit below 1, SettingsError, and db.connect.DatabaseError where the
    database cannot be worked with. Not for a thread that runs an event loop.
    """
    from consumer.backfill import backfill  # noqa: PLC0415 # importing the package must cost nothing
    from consumer.packages import require_own_packages  # noqa: PLC0415
    from consumer.settings import Settings  # noqa: PLC0415

    require_own_packages()
    return backfill(Settings.from_environment(), limit).as_job_result()
