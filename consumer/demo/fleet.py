"""The demo's fleet: leads, the persons behind them, and what became of them before the service existed."""

import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, LiteralString
from uuid import UUID

import psycopg

SEED = "cabinet"
LEADS = 850
DAYS = 45
WITH_EXTERNAL_ID = 0.6
SECOND_LEAD = 0.06
CLAIMED = 0.35
MILESTONES = {1: 1.0, 5: 0.6, 25: 0.3}  # trips, and how many of those with a claim achieved them
FIRST_NAMES = ("Ana", "Carlos", "Diego", "Elena", "Gloria", "Hugo", "Iván", "Jorge", "Karina", "Luis", "María", "Rosa")
LAST_NAMES = ("Aguilar", "Castro", "Díaz", "Flores", "Gómez", "Huamán", "Mamani", "Núñez", "Quispe", "Rojas", "Vargas")
MATCH_RULES = ("phone_exact", "license_exact", "plate_and_name")

COPY_REGISTRY: LiteralString = """
COPY canon.identity_registry (person_key, confidence_level, primary_phone, primary_license, primary_full_name)
FROM STDIN
"""
COPY_LEADS: LiteralString = """
COPY public.module_ct_cabinet_leads (
    id, external_id, lead_created_at, first_name, last_name, park_phone, asset_plate_number
)
FROM STDIN
"""
COPY_JOBS: LiteralString = """
COPY ops.identity_matching_jobs (
    source_type, source_id, status, matched_person_key, attempt_count, last_attempt_at, fail_reason
)
FROM STDIN
"""
COPY_LINKS: LiteralString = """
COPY canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level, linked_at
)
FROM STDIN
"""
COPY_ORIGINS: LiteralString = """
COPY canon.identity_origin (
    person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, decided_by, decided_at,
    resolution_status
)
FROM STDIN
"""
COPY_CLAIMS: LiteralString = """
COPY ops.cabinet_recovery_claim (person_key, lead_date, milestone_trips, milestone_achieved, driver_id) FROM STDIN
"""

FoundBy = Literal["link", "job"]


@dataclass(frozen=True)
class Person:
    key: UUID
    first_name: str
    last_name: str
    phone: str
    license: str
    plate: str


@dataclass(frozen=True)
class Lead:
    """A lead, and who is behind it: known to the matching engine already, or still to be found, in either way."""

    pk: int
    external_id: str | None
    created_at: datetime
    person: Person
    found_by: FoundBy
    found: bool

    @property
    def lead_id(self) -> str:
        return self.external_id or str(self.pk)


@dataclass(frozen=True)
class Origin:
    person: Person
    tag: str
    source_id: str
    created_at: datetime
    decided_by: Literal["system", "manual"] = "system"

    @property
    def status(self) -> str:
        return "resolved_manual" if self.decided_by == "manual" else "resolved_auto"


@dataclass(frozen=True)
class Fleet:
    """A fleet of 850 leads over the last 45 days: the same one at every time, but for the dates."""

    leads: Sequence[Lead]
    origins: Sequence[Origin]
    claims: Sequence[tuple[Any, ...]]

    @property
    def found(self) -> Sequence[Lead]:
        return [lead for lead in self.leads if lead.found]

    @property
    def unfound(self) -> Sequence[Lead]:
        """What the engine has still to match, in its order: by and large the newest first."""
        chance = random.Random(SEED)  # noqa: S311 # a fleet is no secret
        newest = self.leads[-1].created_at
        unfound = [lead for lead in self.leads if not lead.found]
        return sorted(unfound, key=lambda lead: (newest - lead.created_at) * chance.random())

    def newcomer(self, matched: set[str]) -> Lead:
        """Choose a lead that a match by job recovers after those of `matched`: its person has no origin yet."""
        found = (lead.person for lead in self.leads if lead.found or lead.lead_id in matched)
        known = {*found, *(origin.person for origin in self.origins)}
        return next(lead for lead in self.unfound if lead.found_by == "job" and lead.person not in known)


def build_fleet() -> Fleet:
    chance = random.Random(SEED)  # noqa: S311 # a fleet is no secret
    leads = list(_leads(chance, datetime.now(UTC).replace(tzinfo=None)))
    return Fleet(leads, list(_origins(chance, leads)), list(_claims(chance, leads)))


def _leads(chance: random.Random, now: datetime) -> Iterator[Lead]:
    ages = sorted((chance.uniform(0.1, DAYS) for _ in range(LEADS)), reverse=True)
    numbers = chance.sample(range(10**6), LEADS)
    persons: list[Person] = []
    for pk, (age, number) in enumerate(zip(ages, numbers, strict=True), start=1):
        if not persons or chance.random() > SECOND_LEAD:
            persons.append(_person(chance))
            person = persons[-1]
        else:
            person = chance.choice(persons)
        yield Lead(
            pk=pk,
            external_id=f"cab-{number:06}" if chance.random() < WITH_EXTERNAL_ID else None,
            created_at=now - timedelta(days=age),
            person=person,
            found_by="job" if chance.random() < 0.6 else "link",  # noqa: PLR2004 # more by jobs
            # The older a lead, the more often it was matched: 45 in a hundred over all.
            found=chance.random() < 0.25 + 0.4 * age / DAYS,
        )


def _person(chance: random.Random) -> Person:
    return Person(
        key=UUID(int=chance.getrandbits(128), version=4),
        first_name=chance.choice(FIRST_NAMES),
        last_name=f"{chance.choice(LAST_NAMES)} {chance.choice(LAST_NAMES)}",
        phone=f"+519{chance.randrange(10**8):08}",
        license=f"Q{chance.randrange(10**8):08}",
        plate=f"{''.join(chance.choices(string.ascii_uppercase, k=3))}-{chance.randrange(1000):03}",
    )


def _origins(chance: random.Random, leads: Iterable[Lead]) -> Iterator[Origin]:
    """One for some persons: this lead's by the job of old, one decided by hand, or another way into the fleet."""
    seen: set[UUID] = set()
    for lead in leads:
        tag, before = chance.choice(("scout_registration", "migration")), lead.created_at - timedelta(days=30)
        kind = chance.choices(("none", "ours", "manual", "other"), (70, 20 if lead.found else 0, 4, 6))[0]
        if kind == "none" or lead.person.key in seen:
            continue
        seen.add(lead.person.key)
        if kind == "ours":
            yield Origin(lead.person, "cabinet_lead", lead.lead_id, lead.created_at)
        else:
            source_id = f"{tag}-{lead.pk}"
            yield Origin(lead.person, tag, source_id, before, "manual" if kind == "manual" else "system")


def _claims(chance: random.Random, leads: Iterable[Lead]) -> Iterator[tuple[Any, ...]]:
    seen: set[tuple[Any, ...]] = set()
    for lead in leads:
        drives, progress = chance.random() < CLAIMED, chance.random()
        key = lead.person.key, lead.created_at.date()
        if drives and key not in seen:
            seen.add(key)
            for trips, achieved_by in MILESTONES.items():
                yield *key, trips, progress < achieved_by, f"driver-{lead.pk}"


def load(connection: psycopg.Connection[Any], fleet: Fleet) -> None:
    """Fill the host's tables in one transaction, unseen by our triggers: as if all of it were older than they."""
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        for statement, rows in _tables(fleet):
            with connection.cursor().copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        connection.execute("SELECT setval('public.module_ct_cabinet_leads_id_seq', %s)", [len(fleet.leads)])
    connection.execute("ANALYZE")


def _tables(fleet: Fleet) -> Iterator[tuple[LiteralString, Iterable[tuple[Any, ...]]]]:
    recovered = {origin.source_id for origin in fleet.origins}
    yield COPY_REGISTRY, (_registry_row(person) for person in dict.fromkeys(lead.person for lead in fleet.leads))
    yield COPY_LEADS, (_lead_row(lead) for lead in fleet.leads)
    yield COPY_JOBS, (_job_row(lead) for lead in fleet.leads if lead.found_by == "job")
    # The job of old made a link wherever it made an origin.
    yield COPY_LINKS, (_link_row(x) for x in fleet.found if x.found_by == "link" or x.lead_id in recovered)
    yield COPY_ORIGINS, (_origin_row(origin) for origin in fleet.origins)
    yield COPY_CLAIMS, fleet.claims


def _registry_row(person: Person) -> tuple[Any, ...]:
    return person.key, "HIGH", person.phone, person.license, f"{person.first_name} {person.last_name}"


def _lead_row(lead: Lead) -> tuple[Any, ...]:
    person = lead.person
    name = person.first_name, person.last_name
    return lead.pk, lead.external_id, lead.created_at, *name, person.phone, person.plate


def _job_row(lead: Lead) -> tuple[Any, ...]:
    tried_at = lead.created_at.replace(tzinfo=UTC) + timedelta(hours=2)
    if lead.found:
        return "cabinet", lead.lead_id, "matched", lead.person.key, 1, tried_at, None
    if lead.pk % 3:
        return "cabinet", lead.lead_id, "pending", None, 0, None, None
    return "cabinet", lead.lead_id, "failed", None, 3, tried_at, "no candidate above the threshold"


def _link_row(lead: Lead) -> tuple[Any, ...]:
    created_at = lead.created_at.replace(tzinfo=UTC)
    rule = MATCH_RULES[lead.pk % len(MATCH_RULES)]
    linked_at = created_at + timedelta(hours=2)
    return lead.person.key, "module_ct_cabinet_leads", lead.lead_id, created_at, rule, 97, "HIGH", linked_at


def _origin_row(origin: Origin) -> tuple[Any, ...]:
    created_at = origin.created_at.replace(tzinfo=UTC)
    decision = origin.decided_by, created_at, origin.status
    return origin.person.key, origin.tag, origin.source_id, 95, created_at, *decision
