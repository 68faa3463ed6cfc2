"""The words in which tests speak of the host's database, and of running the service on it."""

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from consumer import backfill
from consumer.connection import open_handler
from consumer.handlers.outcome import Batch, Recovery, Summary
from consumer.handlers.recover import Asked
from consumer.settings import Settings
from consumer.sweeper import list_due
from db import listing

# Everything that recovery may write, and the host tables that it may not.
TABLES = (
    "public.module_ct_cabinet_leads",
    "canon.identity_registry",
    "canon.identity_links",
    "canon.identity_origin",
    "canon.identity_origin_history",
    "ops.identity_matching_jobs",
    "ops.cabinet_lead_recovery_audit",
    "ops.cabinet_recovery_outbox",
    "ops.cabinet_recovery_exception",
    "ops.cabinet_recovery_settings",
)


class Database:
    """A migrated database of one test, seen with the matching engine's eyes: every call commits.

    What is done by hand here is done by the host's owner, at `owner_url`. The code under test is given `url`, where it
    has the service's rights and no others; without one, it is the owner.
    """

    def __init__(self, owner_url: str, url: str | None = None) -> None:
        self.owner_url = owner_url
        self.url = url or owner_url
        self.connection = psycopg.connect(owner_url, autocommit=True, row_factory=dict_row)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self.connection.close()

    def settings(self, **changes: str) -> Settings:
        """The service's settings for this database; `changes` by field name, as the environment has them."""
        environment = {f"CABINET_RECOVERY_{name.upper()}": value for name, value in changes.items()}
        return Settings.from_environment({"DATABASE_URL": self.url, **environment})

    def run(self, statement: LiteralString, *parameters: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: LiteralString, *parameters: Any) -> Any:
        (row,) = self.run(statement, *parameters)
        (value,) = row.values()
        return value

    # What the host and its engine do.

    def person(self) -> uuid.UUID:
        person = uuid.uuid4()
        self.register(person)
        return person

    def register(self, person: uuid.UUID) -> None:
        self.run("INSERT INTO canon.identity_registry (person_key, confidence_level) VALUES (%s, 'HIGH')", person)

    def lead(
        self,
        external_id: str | None = "",
        *,
        created_at: datetime | None = datetime(2026, 1, 15, 12, 0),
        matched_to: uuid.UUID | None = None,
    ) -> str:
        """Add a lead and return its lead_id; an external id is made up unless given, or None for a lead without."""
        if external_id == "":
            external_id = f"ext-{next(self._numbers)}"
        lead_id = self.value(
            "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) VALUES (%s, %s) "
            "RETURNING COALESCE(external_id, id::text)",
            external_id,
            created_at,
        )
        if matched_to is not None:
            self.job(lead_id, matched_to)
        return str(lead_id)

    def job(self, lead_id: str, person: uuid.UUID | None, status: str = "matched") -> None:
        """The engine's job for a lead ends, or ends anew, with this person."""
        self.run(
            "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
            "VALUES ('cabinet', %s, %s, %s) ON CONFLICT (source_type, source_id) DO UPDATE "
            "SET status = EXCLUDED.status, matched_person_key = EXCLUDED.matched_person_key, updated_at = now()",
            lead_id,
            status,
            person,
        )

    def link(self, lead_id: str, person: uuid.UUID, rule: str = "phone_exact", score: int = 90) -> None:
        """A link is written, or mended, by somebody else than the service."""
        self.run(
            "INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, "
            "match_score, confidence_level, evidence) "
            "VALUES (%s, 'module_ct_cabinet_leads', %s, now(), %s, %s, 'HIGH', '{\"by\": \"host\"}') "
            "ON CONFLICT (source_table, source_pk) DO UPDATE SET person_key = EXCLUDED.person_key, "
            "match_rule = EXCLUDED.match_rule, match_score = EXCLUDED.match_score, linked_at = now()",
            person,
            lead_id,
            rule,
            score,
        )

    def origin(
        self,
        person: uuid.UUID,
        tag: str = "cabinet_lead",
        source: str = "somewhere",
        decided_by: str = "system",
        status: str = "resolved_auto",
    ) -> None:
        self.run(
            "INSERT INTO canon.identity_origin (person_key, origin_tag, origin_source_id, origin_confidence, "
            "origin_created_at, decided_by, resolution_status) VALUES (%s, %s, %s, 80, now(), %s, %s)",
            person,
            tag,
            source,
            decided_by,
            status,
        )

    def without_foreign_keys(self) -> None:
        """As after a restore: links and jobs may name persons who are not in the registry."""
        for row in self.run(
            "SELECT conrelid::regclass::text AS host_table, conname FROM pg_constraint WHERE contype = 'f' "
            "AND confrelid = 'canon.identity_registry'::regclass AND conrelid <> 'canon.identity_origin'::regclass"
        ):
            self.connection.execute(f"ALTER TABLE {row['host_table']} DROP CONSTRAINT {row['conname']}")

    # What there is.

    def link_of(self, lead_id: str) -> dict[str, Any] | None:
        return self._row("SELECT * FROM canon.identity_links WHERE source_pk = %s", lead_id)

    def origin_of(self, person: uuid.UUID) -> dict[str, Any] | None:
        return self._row("SELECT * FROM canon.identity_origin WHERE person_key = %s", person)

    def audit_of(self, lead_id: str) -> dict[str, Any] | None:
        return self._row("SELECT * FROM ops.cabinet_lead_recovery_audit WHERE lead_id = %s", lead_id)

    def exception_of(self, lead_id: str) -> dict[str, Any] | None:
        return self._row("SELECT * FROM ops.cabinet_recovery_exception WHERE lead_id = %s", lead_id)

    def impact_of(self, lead_id: str) -> dict[str, Any]:
        row = self._row("SELECT * FROM ops.v_cabinet_identity_recovery_impact_14d WHERE lead_id = %s", lead_id)
        assert row is not None
        return row

    def events(self) -> list[tuple[str, str]]:
        rows = self.run("SELECT lead_id, source FROM ops.cabinet_recovery_outbox ORDER BY event_id")
        return [(row["lead_id"], row["source"]) for row in rows]

    def row_versions(self) -> dict[str, list[tuple[Any, ...]]]:
        """Where each row of each table stands and who wrote it: equal before and after means nothing was written."""
        return {
            table: [
                tuple(row.values())
                for row in self.connection.execute(f"SELECT ctid::text, xmin::text FROM {table} ORDER BY ctid")
            ]
            for table in TABLES
        }

    def _row(self, statement: LiteralString, parameter: Any) -> dict[str, Any] | None:
        rows = self.run(statement, parameter)
        assert len(rows) <= 1
        return rows[0] if rows else None

    # The service at work, in this process.

    def give_batches_time(self) -> None:
        """Let the batches of new connections take so long that no pause of the machine cuts one in two."""
        name = self.value("SELECT quote_ident(current_database())")
        self.connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '30s'")

    def recover(self, *lead_ids: str, asked: Asked | None = None, **changes: str) -> Batch:
        """What the worker does with a batch of notifications."""

        async def recover() -> Batch:
            handler = await open_handler(self.settings(**changes), "test")
            async with handler.connection:
                return await handler.recover(lead_ids, asked)

        return asyncio.run(recover())

    def recover_pending(self) -> dict[str, Recovery]:
        """Work the events that are due; what became of each lead."""

        async def recover() -> Batch:
            handler = await open_handler(self.settings(), "test")
            async with handler.connection:
                leads = await list_due(handler, listing.LIST_PENDING, limit=10_000)
                return await handler.recover([lead.lead_id for lead in leads])

        return by_lead(asyncio.run(recover()).recoveries)

    def sweep_waiting(self) -> list[str]:
        """The leads that the daemon's sweeps would look at again and work, of those that wait."""

        async def list_waiting() -> list[str]:
            handler = await open_handler(self.settings(), "test")
            async with handler.connection:
                leads = await list_due(handler, listing.LIST_WAITING, after=None, slice_end="\U0010ffff")
                return [lead.lead_id for lead in leads]

        return asyncio.run(list_waiting())

    def sweep(self, limit: int = 10_000, **changes: str) -> Summary:
        """What `consumer sweep` does."""
        return backfill.backfill(self.settings(**changes), limit)

    def reprocess(self, *lead_ids: str) -> list[Recovery]:
        """What `consumer reprocess` does."""
        return backfill.reprocess(self.settings(), lead_ids)


def by_lead(recoveries: Sequence[Recovery]) -> dict[str, Recovery]:
    assert len({recovery.lead_id for recovery in recoveries}) == len(recoveries)
    return {recovery.lead_id: recovery for recovery in recoveries}


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
