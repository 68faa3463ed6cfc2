"""Transactions of others that are in the way, or only last."""

import psycopg

from tests.chaos.engine import Engine
from tests.chaos.form import in_form
from tests.chaos.trial import Trial, last


def test_the_origins_are_locked_while_the_engine_matches_claimed_leads_anew(url: str) -> None:
    seconds = in_form(20, 4)
    engine = Engine(url, rematch_share=0.9)
    trial = Trial(f"locks: ACCESS EXCLUSIVE on the origins, {seconds} s", url, engine=engine)
    with trial, psycopg.connect(url) as holder, trial.fault():
        holder.execute("LOCK TABLE canon.identity_origin IN ACCESS EXCLUSIVE MODE")
        last(seconds)
        holder.rollback()


def test_a_transaction_elsewhere_stays_open(url: str) -> None:
    """It holds back vacuum, and nothing else."""
    seconds = in_form(30, 4)
    with Trial(f"locks: idle in transaction elsewhere, {seconds} s", url) as trial:
        with psycopg.connect(url) as idle, trial.fault():
            idle.execute("CREATE TABLE public.elsewhere AS SELECT count(*) FROM canon.identity_links")
            last(seconds)
            idle.rollback()
        assert trial.longest_wait() < trial.normal_seconds
