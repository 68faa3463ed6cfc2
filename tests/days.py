"""Today, for tests whose leads have a window that ends at some midnight."""

import time
from datetime import UTC, datetime, timedelta

LONGEST_TEST_SECONDS = 60.0


def today() -> datetime:
    """The last midnight by UTC, which is the business's unless told otherwise; the next one is waited for, if near.

    To be asked by each test anew: the session may have begun yesterday.
    """
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    tomorrow = midnight + timedelta(days=1)
    if (seconds_left := (tomorrow - now.replace(tzinfo=None)).total_seconds()) > LONGEST_TEST_SECONDS:
        return midnight
    time.sleep(seconds_left)
    return tomorrow
