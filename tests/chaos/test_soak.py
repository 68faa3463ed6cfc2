"""A long time at a steady load: nothing grows, nothing slows down. Run by `make soak`."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pytest

from tests.chaos.engine import Engine
from tests.chaos.trial import Trial, last, now, resident_bytes

MINUTES = float(os.environ.get("SOAK_MINUTES", "20"))
MATCHES_PER_SECOND = 200
COMMITTED_SHARE = 0.8
SAMPLE_SECONDS = 15.0
WARM_UP = 0.2  # of the time: caches fill, the first vacuum comes

MOST_GROWTH_BYTES = 5 * 1024**2
MOST_OUTBOX_BYTES = 32 * 1024**2

DATABASE_STATE = """
    SELECT
        (SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'cabinet-recovery')) AS connections,
        (SELECT count(*) FROM ops.cabinet_recovery_outbox) AS pending,
        pg_total_relation_size('ops.cabinet_recovery_outbox') AS outbox_bytes,
        pg_total_relation_size('ops.cabinet_lead_recovery_audit') AS audit_bytes,
        pg_total_relation_size('canon.identity_links') AS links_bytes,
        pg_total_relation_size('canon.identity_origin') AS origins_bytes,
        (
            SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'ops.cabinet_recovery_outbox'::regclass
        ) AS outbox_dead
"""
P99_PER_MINUTE = """
    SELECT
        floor(EXTRACT(EPOCH FROM committed_at - %s) / 60)::integer AS minute,
        count(*) AS matches,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median,
        percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) AS p99
    FROM chaos.wait WHERE committed_at >= %s GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class Sample:
    """What the daemon and the database hold at a moment."""

    minute: float
    rss_bytes: int
    files: int
    threads: int
    connections: int
    pending: int
    outbox_bytes: int
    audit_bytes: int
    links_bytes: int
    origins_bytes: int
    outbox_dead: int


@pytest.mark.soak
@pytest.mark.timeout(60 * MINUTES + 600)
def test_a_steady_load(url: str) -> None:
    matches = int(60 * MINUTES * MATCHES_PER_SECOND)
    engine = Engine(url, leads=matches, rate=MATCHES_PER_SECOND / COMMITTED_SHARE, sizes=(1,), rematch_share=0.5)
    with Trial(f"soak: {MATCHES_PER_SECOND} matches/s for {MINUTES:g} minutes", url, engine=engine) as trial:
        with trial.fault():
            began = now()
            samples = list(observe(trial))
            committed_per_second = engine.committed / (now() - began).total_seconds()
        minutes = trial.ask(P99_PER_MINUTE, began, began)[: int(MINUTES)]
    print(f"{committed_per_second:.0f} matches committed a second")
    assert committed_per_second > 0.9 * MATCHES_PER_SECOND
    for minute in minutes:
        print("minute {minute}: {matches} matches, {median:.4f} s, p99 {p99:.4f} s".format(**minute))
    require_flat(samples)
    require_steady([minute["p99"] for minute in minutes])


def observe(trial: Trial) -> Iterator[Sample]:
    """Take a sample now and then, and print it."""
    print(*(field.name for field in fields(Sample)))
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < 60 * MINUTES:
        sample = sample_of(trial, seconds / 60)
        print(*astuple(sample), flush=True)
        yield sample
        last(SAMPLE_SECONDS)


def sample_of(trial: Trial, minute: float) -> Sample:
    process = Path(f"/proc/{trial.daemon.process.pid}")
    (state,) = trial.ask(DATABASE_STATE)
    return Sample(
        minute=round(minute, 2),
        rss_bytes=resident_bytes(trial.daemon.process.pid),
        files=len(list((process / "fd").iterdir())),
        threads=len(list((process / "task").iterdir())),
        **state,
    )


def require_flat(samples: Sequence[Sample]) -> None:
    warm = samples[int(WARM_UP * len(samples)) :]
    slope, _ = statistics.linear_regression([one.minute for one in warm], [one.rss_bytes for one in warm])
    print(f"resident memory: {slope / 1024:+.1f} kB a minute")
    assert slope * MINUTES < MOST_GROWTH_BYTES
    for held in ("files", "threads", "connections"):
        counts = [getattr(one, held) for one in warm]
        assert max(counts) - min(counts) <= 2, (held, counts)
    assert max(one.outbox_bytes for one in warm) < MOST_OUTBOX_BYTES


def require_steady(p99: Sequence[float]) -> None:
    middle = len(p99) // 2
    if middle:
        assert statistics.median(p99[middle:]) < 3 * statistics.median(p99[:middle]) + 0.05
