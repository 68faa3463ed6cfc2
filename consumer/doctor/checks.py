"""The checks that the doctor makes, in their order."""

import secrets
import shlex
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from typing import LiteralString

import psycopg
from psycopg import sql

from consumer.doctor.examination import GRANT, LOOK_SECONDS, Check, Finding, Patient, needed_rights, open_connection
from consumer.settings import LISTENER_VARIABLE
from db import checks as queries
from db.connect import RESET_READ_ONLY, SCHEMA_REVISION, DatabaseError
from db.trigger_switch import TRIGGERS

PROBES: tuple[tuple[str, LiteralString], ...] = (
    ("link_inserted", queries.INSERT_LINK),
    ("link_updated", queries.UPDATE_LINK),
    ("job_inserted", queries.INSERT_JOB),
    ("job_updated", queries.UPDATE_JOB),
)
QUEUE_WORRYING, QUEUE_SILENT = 0.1, 0.5  # from the latter on, the triggers do not notify
SKEW_SECONDS = 2.0
SWEEPS = 2  # what has waited for so many is not about to be done


def connection(patient: Patient) -> Finding:
    if patient.connection.pgconn.parameter_status(b"in_hot_standby") == b"on":
        mend = "give the primary's address, or all hosts and target_session_attrs=read-write"
        return Finding("connection", "fail", f"{patient.settings.database} is a read-only standby", mend)
    if patient.connection.pgconn.parameter_status(b"default_transaction_read_only") == b"on":
        told = f"{patient.settings.database} takes no writes: default_transaction_read_only is on"
        return Finding("connection", "fail", told, RESET_READ_ONLY)
    return Finding("connection", "ok", f"{patient.settings.database}")


def server(patient: Patient) -> Finding:
    version = patient.connection.info.server_version
    told = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    if version < queries.OLDEST_SERVER:
        return Finding("server", "fail", told, "upgrade it to PostgreSQL 15 or later")
    return Finding("server", "ok", told)


def schema(patient: Patient) -> Finding:
    try:
        rows = patient.ask("SELECT version_num FROM ops.cabinet_recovery_alembic_version")
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        rows = []
    if not rows:
        return Finding("schema", "fail", "it is missing", "consumer migrate")
    revision = rows[0]["version_num"]
    if revision < SCHEMA_REVISION:
        return Finding("schema", "fail", f"{revision} is outdated, {SCHEMA_REVISION} is needed", "consumer migrate")
    return Finding("schema", "ok", f"revision {revision}")


def rights(patient: Patient) -> Finding:
    missing = [row["missing"] for row in patient.ask(queries.MISSING_RIGHTS, rights=needed_rights())]
    if missing:
        return Finding("rights", "fail", f"missing: {'; '.join(sorted(missing))}", GRANT)
    return Finding("rights", "ok", f"{patient.connection.info.user} has what it needs")


def triggers(patient: Patient) -> Finding:
    states = {row["tgname"]: row["state"] for row in patient.ask(queries.TRIGGERS)}
    wanted = [name for of_table in TRIGGERS.values() for name in of_table]
    if missing := [name for name in wanted if name not in states]:
        mend = f"as the owner of its table: {_psql('triggers', *missing)}"
        return Finding("triggers", "fail", f"missing: {', '.join(missing)}", mend)
    if silent := [name for name in wanted if states[name] not in "OA"]:
        return Finding("triggers", "fail", f"do not fire: {', '.join(silent)}", "consumer triggers enable")
    return Finding("triggers", "ok", "all four are enabled")


def events(patient: Patient) -> Finding:
    """Match a lead that there is not, look whether that becomes events, and roll it back."""
    persons = [row["person_key"] for row in patient.ask(queries.PERSONS)]
    if len(persons) < 2:  # noqa: PLR2004 # one to match, one to match anew
        return Finding("events", "ok", "not tried: it takes two persons who have been matched")
    may_write_jobs = patient.ask_one(queries.MAY_WRITE_JOBS)["may_write"]
    tries = PROBES if may_write_jobs else PROBES[:2]
    with patient.connection.transaction(force_rollback=True):
        patient.connection.execute(queries.SET_UP, {"statement_timeout_ms": 5000})
        silent = list(_silent(patient, tries, persons))
    if silent:
        anew = _psql("triggers", *(f"cabinet_recovery_{name}" for name in silent))
        mend = f"consumer triggers enable; else, as the owner of its table: {anew}"
        return Finding("events", "fail", f"a match makes no event: {', '.join(silent)}", mend)
    told = "" if may_write_jobs else "; jobs not tried, for this role may not write them: the owner may"
    return Finding("events", "ok", f"a match becomes an event (tried, rolled back){told}")


def _silent(patient: Patient, tries: tuple[tuple[str, LiteralString], ...], persons: list[object]) -> Iterator[str]:
    lead_id = f"cabinet-recovery-doctor-{secrets.token_hex(8)}"
    made = 0
    for number, (name, statement) in enumerate(tries):
        patient.connection.execute(statement, {"lead_id": lead_id, "person": persons[number % 2]})
        (row,) = patient.connection.execute(queries.COUNT_EVENTS, {"lead_id": lead_id}).fetchall()
        if row["events"] == made:
            yield name
        made = row["events"]


def notify(patient: Patient) -> Finding:
    """Send over DATABASE_URL and listen where the daemon would: a transaction pooler, or another server, is deaf."""
    address = patient.settings.listener_database or patient.settings.database
    channel = f"cabinet_recovery_doctor_{secrets.token_hex(8)}"
    try:
        listening = open_connection(address)
    except DatabaseError as error:
        return Finding("notify", "fail", str(error), f"see {address.variable}")
    with closing(listening):
        listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        patient.connection.execute(queries.NOTIFY, {"channel": channel})
        heard = list(listening.notifies(timeout=patient.settings.proof_timeout_seconds, stop_after=1))
    if not heard:
        told = f"what is sent through {patient.settings.database} does not arrive at {address}: a transaction pooler?"
        return Finding("notify", "fail", told, f"give the server's own address in {LISTENER_VARIABLE}")
    return Finding("notify", "ok", f"what is sent arrives at {address}")


def notify_queue(patient: Patient) -> Finding:
    usage = patient.ask_one(queries.QUEUE_USAGE)["usage"]
    if usage <= QUEUE_WORRYING:
        return Finding("notify queue", "ok", f"{usage:.0%} full")
    mend = "end the session that listens and stays in a transaction: SELECT * FROM pg_stat_activity ORDER BY xact_start"
    return Finding("notify queue", "fail" if usage > QUEUE_SILENT else "warn", f"{usage:.0%} full", mend)


def views(patient: Patient) -> Finding:
    """Look for all of ours, and whether the host's migrations put back the two that it knows by name."""
    rows = patient.ask(queries.VIEW_COLUMNS, views=list(queries.VIEWS))
    found = {row["relname"]: row["columns"] for row in rows}
    if wrong := [name for name, columns in queries.VIEWS.items() if found.get(name) != columns]:
        told = ", ".join(f"{name} {'has other columns' if name in found else 'is missing'}" for name in wrong)
        mend = f"rename yours, if it is one; then, as the owner: {_psql('views', *wrong)}"
        return Finding("views", "fail", told, mend)
    if theirs := sorted(row["relname"] for row in rows if row["is_theirs"]):
        told = f"not as we made it, so its figures go by other rules: {', '.join(theirs)}"
        return Finding("views", "warn", told, f"as the owner: {_psql('views', *theirs)}")
    return Finding("views", "ok", f"all {len(found)} are as we made them")


def _psql(folder: str, *names: str) -> str:
    """The command that makes the objects anew, from their files, wherever we are installed."""
    files = (shlex.quote(str(resources.files("db") / folder / f"{name}.sql")) for name in names)
    return f'psql "$DATABASE_URL" {" ".join(f"-f {file}" for file in files)}'


def due(patient: Patient) -> Finding:
    patience_seconds = SWEEPS * patient.settings.sweep_interval_seconds
    leads = patient.ask_one(queries.DUE, LOOK_SECONDS, patience_seconds=patience_seconds)
    if leads["by_event"] or leads["by_state"]:
        told = f"recoverable now: {leads['by_event']} with an event older than {patience_seconds} s"
        mend = "consumer sweep; does `consumer run` run?"
        return Finding("due", "warn", f"{told}, {leads['by_state']} without an event", mend)
    return Finding("due", "ok", "nothing waits to be recovered")


def undone(patient: Patient) -> Finding:
    leads = patient.ask_one(queries.UNDONE)
    told = f"{leads['parked']} parked, {leads['failed']} failed, {leads['waiting']} wait for their lead or person"
    if not any(leads.values()):
        return Finding("undone", "ok", told)
    mend = "consumer parked list" if leads["parked"] else "consumer status; consumer why LEAD_ID"
    return Finding("undone", "warn", told, mend)


def stale_origins(patient: Patient) -> Finding:
    found = patient.ask_one(queries.STALE_ORIGINS, LOOK_SECONDS)
    if found["leads"]:
        told = f"origins of leads that are gone: {found['leads']}, such as that of {found['example'][:60]}"
        return Finding("stale origins", "warn", told, "put the leads back; else the person's next lead takes it over")
    return Finding("stale origins", "ok", "every origin's lead is there")


def disagreements(patient: Patient) -> Finding:
    found = patient.ask_one(queries.DISAGREEMENTS, LOOK_SECONDS)
    if found["leads"]:
        told = f"jobs that name another person than the link, which counts: {found['leads']}"
        return Finding("disagreements", "warn", told, f"consumer why {found['example'][:60]}; then mend the wrong one")
    return Finding("disagreements", "ok", "jobs and links name the same persons")


def audit(patient: Patient) -> Finding:
    found = patient.ask_one(queries.FOREIGN_AUDIT, LOOK_SECONDS)
    if not found["leads"]:
        return Finding("audit", "ok", "nobody else writes it")
    told = f"rows that are not ours: {found['leads']}, the latest of {found['latest']:%Y-%m-%d %H:%M %Z}"
    if found["is_recent"]:
        return Finding("audit", "warn", told, "does the old job still run? take it out of the crontab")
    return Finding("audit", "ok", f"{told}: from before")


def clock(patient: Patient) -> Finding:
    before = patient.clock()
    theirs = patient.ask_one(queries.NOW)["now"]
    after = patient.clock()
    ahead_seconds = max((before - theirs).total_seconds(), 0) + min((after - theirs).total_seconds(), 0)
    if abs(ahead_seconds) > SKEW_SECONDS:
        told = f"this host is {abs(ahead_seconds):.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'} the server"
        return Finding("clock", "warn", told, "timedatectl set-ntp true, on both")
    return Finding("clock", "ok", "this host and the server agree")


def time_zone(patient: Patient) -> Finding:
    rows = patient.ask(queries.SETTINGS)
    if not rows:
        mend = 'as the owner: psql "$DATABASE_URL" -c "INSERT INTO ops.cabinet_recovery_settings DEFAULT VALUES"'
        return Finding("time zone", "warn", "there are no settings: days are counted in UTC", mend)
    told = f"{rows[0]['business_time_zone']}, where today is {rows[0]['today']}"
    if rows[0]["notify_mode"] == "off":
        mend = "UPDATE ops.cabinet_recovery_settings SET notify_mode = 'on', unless the engine commits in two phases"
        return Finding("time zone", "warn", f"{told}; notify_mode is off: only sweeps recover", mend)
    return Finding("time zone", "ok", told)


# In their order; each with whether it needs our schema.
CHECKS: dict[str, tuple[Check, bool]] = {
    "connection": (connection, False),
    "server": (server, False),
    "schema": (schema, False),
    "rights": (rights, True),
    "triggers": (triggers, True),
    "events": (events, True),
    "notify": (notify, False),
    "notify queue": (notify_queue, False),
    "views": (views, True),
    "due": (due, True),
    "undone": (undone, True),
    "stale origins": (stale_origins, True),
    "disagreements": (disagreements, True),
    "audit": (audit, True),
    "clock": (clock, False),
    "time zone": (time_zone, True),
}
