"""Each role can do its work and nothing else. That the service can, every other test proves: it runs as that role."""

import asyncio
import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumer.connection import open_handler
from consumer.handlers.recover import Asked
from consumer.reports.impact import read_impact
from consumer.reports.story import read_story
from consumer.sweeper import list_all, list_due
from db import checks, keeping, listing
from db.connect import AccessRefused, Address, Connection
from db.engine import open_engine
from db.migrate import migrate
from db.reports import list_parked, read_parked, read_status
from db.roles import InvalidRoleName, Roles, apply
from db.trigger_switch import read_states, switch
from tests.database import Database
from tests.logins import PASSWORD, Login
from tests.servers import TemplateDatabase

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
HOST_TABLES = (
    "public.module_ct_cabinet_leads",
    "canon.identity_registry",
    "canon.identity_links",
    "canon.identity_origin",
    "canon.identity_origin_history",
    "ops.identity_matching_jobs",
)
OUR_TABLES = (
    "ops.cabinet_lead_recovery_audit",
    "ops.cabinet_recovery_alembic_version",
    "ops.cabinet_recovery_exception",
    "ops.cabinet_recovery_outbox",
    "ops.cabinet_recovery_settings",
)
VIEWS = (
    "ops.v_cabinet_recovery_identity",
    "ops.v_cabinet_recovery_decision",
    "ops.v_cabinet_recovery_pending",
    "ops.v_cabinet_recovery_audit",
    "ops.v_cabinet_recovery_calendar",
    "ops.v_cabinet_recovery_event",
    "ops.v_cabinet_recovery_exception",
    "ops.v_cabinet_recovery_job",
    "ops.v_cabinet_recovery_link",
    "ops.v_cabinet_recovery_origin",
    "ops.v_cabinet_recovery_origin_history",
    "ops.v_cabinet_lead_identity_effective",
    "ops.v_cabinet_identity_recovery_impact_14d",
)
# Whatever a role was granted in this database, a column at a time where it is columns.
RIGHTS = """
    SELECT kind, name, column_name, privilege_type AS privilege
    FROM (
        SELECT 'schema' AS kind, nspname::text AS name, NULL AS column_name, nspacl AS acl FROM pg_namespace
        UNION ALL
        SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, oid::regclass::text, NULL, relacl FROM pg_class
        UNION ALL
        SELECT 'table', attrelid::regclass::text, attname::text, attacl FROM pg_attribute
        UNION ALL
        SELECT 'function', oid::regprocedure::text, NULL, proacl FROM pg_proc
    ) AS object, aclexplode(acl) AS granted
    WHERE grantee = %s::regrole AND name <> 'module_ct_cabinet_leads'
    UNION ALL
    SELECT 'table', 'public.module_ct_cabinet_leads', attname::text, privilege_type
    FROM pg_attribute, aclexplode(attacl) WHERE grantee = %s::regrole AND attrelid::regclass::text = %s
    ORDER BY 1, 2, 4, 3
"""


class Right(NamedTuple):
    kind: str
    name: str
    column: str | None
    privilege: str

    def statement(self, verb: str, role: str) -> sql.Composed:
        columns = sql.SQL("") if self.column is None else sql.SQL("({})").format(sql.Identifier(self.column))
        return sql.SQL("{} {} {} ON {} {} {} {}").format(
            sql.SQL(verb), sql.SQL(self.privilege), columns, sql.SQL(self.kind), sql.SQL(self.name),
            sql.SQL("TO" if verb == "GRANT" else "FROM"), sql.Identifier(role),
        )  # fmt: skip


def rights_of(database: Database, role: str) -> list[Right]:
    rows = database.connection.execute(RIGHTS, (f'"{role}"', f'"{role}"', "module_ct_cabinet_leads")).fetchall()
    return [Right(*row.values()) for row in rows]


@pytest.fixture
def service(database: Database) -> Iterator[Database]:
    """The same database, whose words are spoken by the service's role."""
    with closing(Database(database.url)) as found:
        yield found


@pytest.fixture
def reader(database: Database, login: Login) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(login.roles.reader)))
        yield connection


class TestTheService:
    def test_works_as_a_role_that_is_neither_superuser_nor_owner(self, database: Database, service: Database) -> None:
        assert database.settings().database.conninfo == database.url
        (me,) = service.run("SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert set(me.values()) == {False}
        assert service.run("SELECT FROM pg_class WHERE relowner = current_user::regrole") == []

    @pytest.mark.parametrize("table", [*HOST_TABLES, *OUR_TABLES])
    @pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"])
    def test_can_destroy_nothing(self, service: Database, table: str, statement: str) -> None:
        if (statement, table) == ("DELETE FROM {}", "ops.cabinet_recovery_outbox"):
            pytest.skip("what it settles, it deletes")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.connection.execute(statement.format(table))

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT park_phone FROM public.module_ct_cabinet_leads",
            "SELECT lead_created_at FROM public.module_ct_cabinet_leads",
            "SELECT person_key FROM canon.identity_registry",
            "SELECT primary_phone FROM canon.identity_registry",
            "SELECT notes FROM canon.identity_origin",
            "SELECT * FROM canon.identity_origin_history",
            "SELECT fail_reason FROM ops.identity_matching_jobs",
            "SELECT * FROM ops.cabinet_recovery_settings",
            "SELECT * FROM ops.v_payment_calculation",
            "UPDATE canon.identity_registry SET flags = NULL",
            "UPDATE ops.identity_matching_jobs SET status = 'pending'",
            "UPDATE canon.identity_links SET source_pk = 'x'",
            "UPDATE canon.identity_origin SET person_key = person_key",
            "UPDATE canon.identity_origin SET notes = NULL",
            "UPDATE canon.identity_origin_history SET changed_by = NULL",
            "UPDATE ops.cabinet_lead_recovery_audit SET first_recovered_at = now()",
            "UPDATE ops.cabinet_lead_recovery_audit SET lead_id = 'x'",
            "UPDATE ops.cabinet_recovery_exception SET lead_id = 'x'",
            "UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'",
            "UPDATE ops.cabinet_recovery_outbox SET lead_id = 'x'",
            "INSERT INTO ops.cabinet_recovery_outbox (lead_id, source, requested_at) VALUES ('x', 'operator', now())",
            "INSERT INTO canon.identity_registry (person_key, confidence_level) VALUES (gen_random_uuid(), 'HIGH')",
            "INSERT INTO public.module_ct_cabinet_leads (external_id) VALUES ('x')",
            "CREATE TABLE ops.mine ()",
            "CREATE TABLE canon.mine ()",
            "CREATE TABLE public.mine ()",
            "ALTER TABLE canon.identity_links DISABLE TRIGGER ALL",
            "COPY canon.identity_links TO PROGRAM 'cat'",
        ],
    )
    def test_can_do_nothing_else(self, service: Database, statement: str) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.connection.execute(statement)  # type: ignore[call-overload] # the test's own words

    def test_cannot_switch_the_triggers(self, database: Database) -> None:
        with (
            open_engine(database.settings().database, "test") as engine,
            pytest.raises(Exception, match="must be owner"),
        ):
            switch(engine, "DISABLE")

    @pytest.mark.slow
    def test_needs_every_right_that_it_has(self, database: Database, login: Login) -> None:
        """Each is taken away in turn; then something that the service does must fail."""
        rights = rights_of(database, login.roles.service)
        assert len(rights) > 80
        database.run(
            "ALTER TABLE canon.identity_origin ADD CONSTRAINT none CHECK (origin_source_id NOT LIKE 'bad-%%') NOT VALID"
        )
        do_everything(database)
        needless = []
        for right in rights:
            if (right.kind, right.name) == ("schema", "public"):
                continue  # which everybody may use, unless the site has taken that away
            database.connection.execute(right.statement("REVOKE", login.roles.service))
            try:
                do_everything(database)
            except RightMissing:
                pass
            else:
                needless.append(right)
            database.connection.execute(right.statement("GRANT", login.roles.service))
        assert needless == []


class RightMissing(Exception):
    """What a role may not do, by whatever way it was told."""


def do_everything(database: Database) -> None:
    """All that the service reads and writes, with new leads each time; raises RightMissing."""
    try:
        asyncio.run(recover_in_every_way(database))
        report_everything(database)
    except (psycopg.errors.InsufficientPrivilege, AccessRefused) as error:
        raise RightMissing from error
    except sa.exc.ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise RightMissing from error
        raise


async def recover_in_every_way(database: Database) -> None:
    people = [database.person() for _ in range(3)]
    database.origin(people[1], tag="migration")
    lead, bad = database.lead(matched_to=people[0]), database.lead("bad-" + str(people[2]), matched_to=people[2])
    unknown = f"unknown-{people[0]}"
    database.job(unknown, people[2])
    handler = await open_handler(database.settings(max_attempts="1"), "test")
    async with handler.connection:

        async def outcome_of(lead_id: str, asked: Asked | None = None) -> str:
            (recovery,) = (await handler.recover([lead_id], asked)).recoveries
            return recovery.outcome

        assert await outcome_of(lead) == "recovered"  # created: link, origin, audit
        database.job(lead, people[1])
        assert await outcome_of(lead) == "recovered"  # moved, replaced, updated
        assert await outcome_of(lead, Asked.BY_OPERATOR) == "unchanged"
        assert await outcome_of(bad) == "failed"
        assert await outcome_of(bad, Asked.BY_OPERATOR) == "failed"
        assert await outcome_of(unknown) == "unknown_lead"
        database.lead(unknown)
        assert unknown in {
            one.lead_id for one in await list_due(handler, listing.LIST_WAITING, after=None, slice_end=unknown)
        }
        assert await outcome_of(unknown, Asked.BY_SWEEP) == "recovered"  # clears what was recorded
        await list_due(handler, listing.LIST_PENDING, limit=10)
        await list_all(handler, 10)
        await handler.connection.execute(listing.SLICE_END, {"after": 0, "size": 10})
        await keep(handler.connection)


async def keep(connection: Connection) -> None:
    """What a keeper does that wakes up, looks, and falls asleep."""
    for statement in (keeping.WATCH, keeping.LEASE, keeping.LOOK, keeping.END_LEASE, keeping.FORGET_LEASE):
        await connection.execute(statement, {"may_keep": True, "seconds": 1, "limit": 10})


def report_everything(database: Database) -> None:
    with open_engine(database.settings().database, "test") as engine:
        read_status(engine)
        read_impact(engine)
        read_story(engine, database.lead())
        read_states(engine)
        for lead in list_parked(engine, 1):
            assert read_parked(engine, lead.lead_id)
    # Not the whole doctor, who asks for every right by name.
    with psycopg.connect(database.url) as connection:
        connection.execute(checks.SETTINGS)


class TestTheEngine:
    """Whoever writes matches needs no right on anything of ours."""

    @pytest.fixture
    def engine(self, database: Database, login: Login) -> Iterator[psycopg.Connection]:
        role = sql.Identifier(f"{login.name}_engine")
        database.connection.execute(sql.SQL("""
            CREATE ROLE {role};
            GRANT USAGE ON SCHEMA canon, ops TO {role};
            GRANT SELECT, INSERT, UPDATE ON canon.identity_links, ops.identity_matching_jobs TO {role};
            GRANT USAGE ON ALL SEQUENCES IN SCHEMA canon, ops TO {role};
        """).format(role=role))  # fmt: skip
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute(sql.SQL("SET ROLE {}").format(role))
            yield connection
        database.connection.execute(sql.SQL("DROP OWNED BY {role}; DROP ROLE {role}").format(role=role))

    @pytest.mark.parametrize("thing", [*OUR_TABLES, *VIEWS])
    def test_can_read_nothing_of_ours(self, engine: psycopg.Connection, thing: str) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            engine.execute(f"SELECT * FROM {thing}")

    def test_can_write_no_event_by_hand(self, engine: psycopg.Connection) -> None:
        for statement in (
            "INSERT INTO ops.cabinet_recovery_outbox (lead_id, source) VALUES ('x', 'operator')",
            """CREATE TRIGGER mine AFTER INSERT ON ops.identity_matching_jobs
            FOR EACH STATEMENT EXECUTE FUNCTION ops.cabinet_recovery_job_inserted()""",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                engine.execute(statement)

    def test_writes_matches_which_become_events_and_are_recovered(
        self, database: Database, engine: psycopg.Connection
    ) -> None:
        first, second, person, other = database.lead(), database.lead(), database.person(), database.person()

        engine.execute(MATCH_JOB, (first, person))
        engine.execute(MATCH_LINK, (other, second))
        engine.execute("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", (other,))
        engine.execute("UPDATE canon.identity_links SET person_key = %s", (person,))

        assert database.events() == [
            (first, "matching_job"), (second, "identity_link"), (first, "matching_job"), (second, "identity_link")
        ]  # fmt: skip
        assert {one.outcome for one in database.recover_pending().values()} == {"recovered"}

    def test_cannot_lead_a_trigger_astray_with_objects_of_its_own(
        self, database: Database, engine: psycopg.Connection
    ) -> None:
        """Everything that a trigger function names, shadowed where a session may look first."""
        role = engine.execute("SELECT current_user").fetchone()
        assert role
        database.connection.execute(f'GRANT CREATE ON SCHEMA public TO "{role[0]}"')
        database.connection.execute(f'CREATE SCHEMA attack AUTHORIZATION "{role[0]}"')
        for schema in ("pg_temp", "attack", "public"):
            engine.execute(SHADOWS.replace("SCHEMA_NAME", schema).encode())
        engine.execute("SET search_path = attack, public, pg_temp, pg_catalog")
        lead, person = database.lead(), database.person()
        with closing(psycopg.connect(database.owner_url, autocommit=True)) as listener:
            listener.execute("LISTEN cabinet_recovery")
            engine.execute(MATCH_JOB, (lead, person))
            engine.execute("UPDATE ops.identity_matching_jobs SET matched_person_key = NULL")
            engine.execute("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", (person,))

            assert database.events() == [(lead, "matching_job")] * 2
            heard = [one.payload for one in listener.notifies(timeout=5, stop_after=2)]
            assert heard == [lead, lead]


MATCH_JOB = """
    INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
    VALUES ('cabinet', %s, 'matched', %s)
"""
MATCH_LINK = """
    INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
        confidence_level)
    VALUES (%s, 'module_ct_cabinet_leads', %s, now(), 'phone_exact', 90, 'HIGH')
"""
# Each raises when it is called, or swallows what is written.
SHADOWS = """
CREATE FUNCTION SCHEMA_NAME.trap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trap closed, as %', current_user;
END $$;
CREATE FUNCTION SCHEMA_NAME.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trap closed, as %', current_user;
END $$;
CREATE FUNCTION SCHEMA_NAME.pg_notification_queue_usage() RETURNS float8 LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trap closed, as %', current_user;
END $$;
CREATE FUNCTION SCHEMA_NAME.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trap closed, as %', current_user;
END $$;
CREATE FUNCTION SCHEMA_NAME.octet_length(text) RETURNS integer LANGUAGE sql AS 'SELECT 1 / 0';
CREATE FUNCTION SCHEMA_NAME.cardinality(text[]) RETURNS integer LANGUAGE sql AS 'SELECT 1 / 0';
CREATE FUNCTION SCHEMA_NAME.array_agg_step(text[], text) RETURNS text[] LANGUAGE sql AS 'SELECT NULL::text[]';
CREATE AGGREGATE SCHEMA_NAME.array_agg(text) (SFUNC = SCHEMA_NAME.array_agg_step, STYPE = text[]);
CREATE OPERATOR SCHEMA_NAME.= (LEFTARG = text, RIGHTARG = text, FUNCTION = SCHEMA_NAME.equal);
CREATE TABLE SCHEMA_NAME.new_rows (source_id text, matched_person_key uuid, source_type text, status text);
CREATE TABLE SCHEMA_NAME.old_rows (source_id text, matched_person_key uuid, source_type text, status text);
CREATE TABLE SCHEMA_NAME.matched (lead_id text);
CREATE TABLE SCHEMA_NAME.event (lead_id text);
CREATE TABLE SCHEMA_NAME.cabinet_recovery_outbox (lead_id text, source text);
CREATE TABLE SCHEMA_NAME.cabinet_recovery_settings (notify_mode text);
INSERT INTO SCHEMA_NAME.cabinet_recovery_settings VALUES ('off');
CREATE TRIGGER trap BEFORE INSERT ON SCHEMA_NAME.cabinet_recovery_outbox
FOR EACH ROW EXECUTE FUNCTION SCHEMA_NAME.trap();
"""


class TestTheOwner:
    def test_owns_what_is_ours_and_can_neither_log_in_nor_read_personal_data(
        self, database: Database, login: Login
    ) -> None:
        owner = login.roles.owner
        (role,) = database.run("SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = %s", owner)
        assert set(role.values()) == {False}
        owned = database.run(
            "SELECT relname AS name FROM pg_class WHERE relowner = %(owner)s::regrole AND relkind IN ('r', 'v') "
            "UNION ALL SELECT proname FROM pg_proc WHERE proowner = %(owner)s::regrole AND prorettype = 2279"
            .replace("%(owner)s", f"'{owner}'")  # type: ignore[arg-type] # a name of ours
        )  # fmt: skip
        assert {row["name"] for row in owned} == {
            "cabinet_recovery_alembic_version", "cabinet_recovery_exception", "cabinet_recovery_outbox",
            "cabinet_recovery_settings", "v_cabinet_recovery_identity", "v_cabinet_recovery_decision",
            "v_cabinet_recovery_pending", "v_cabinet_recovery_audit", "v_cabinet_recovery_calendar",
            "v_cabinet_recovery_event", "v_cabinet_recovery_exception", "v_cabinet_recovery_job",
            "v_cabinet_recovery_link", "v_cabinet_recovery_origin", "v_cabinet_recovery_origin_history",
            "cabinet_recovery_job_inserted", "cabinet_recovery_job_updated",
            "cabinet_recovery_link_inserted", "cabinet_recovery_link_updated",
        }  # fmt: skip
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
            for statement in (
                "SELECT park_phone FROM public.module_ct_cabinet_leads",
                "SELECT primary_full_name FROM canon.identity_registry",
                "SELECT notes, evidence FROM canon.identity_origin",
                "SELECT changed_by FROM canon.identity_origin_history",
                "DELETE FROM canon.identity_links",
                "INSERT INTO ops.identity_matching_jobs (source_type, source_id) VALUES ('cabinet', 'x')",
                "CREATE TABLE ops.mine ()",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)  # type: ignore[call-overload] # the test's own words

    @pytest.mark.parametrize("attribute", ["LOGIN", "SUPERUSER", "BYPASSRLS"])
    def test_must_not_be_a_role_that_could_do_more(self, database: Database, attribute: str, login: Login) -> None:
        name = f"{login.name}_mighty"
        database.connection.execute(f"CREATE ROLE {name} {attribute}")
        try:
            with pytest.raises(psycopg.errors.RaiseException, match="can neither log in"):
                apply(Roles(owner=name), Address.parse(database.owner_url))
        finally:
            database.connection.execute(f"DROP ROLE {name}")


class TestTheReader:
    @pytest.mark.parametrize("view", VIEWS[1:])
    def test_reads_the_views(self, reader: psycopg.Connection, view: str) -> None:
        reader.execute(f"SELECT * FROM {view}")

    @pytest.mark.parametrize("thing", [*HOST_TABLES, *OUR_TABLES, "ops.v_payment_calculation"])
    def test_reads_nothing_else(self, reader: psycopg.Connection, thing: str) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(f"SELECT * FROM {thing}")

    @pytest.mark.parametrize("view", VIEWS)
    def test_sees_no_personal_data(self, database: Database, view: str) -> None:
        columns = {
            row["attname"]
            for row in database.run("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s)", view)
        }
        assert not {column for column in columns if re.search("name$|phone|plate|license|document|evidence", column)}


class TestTheScript:
    def test_may_be_repeated(self, database: Database, login: Login) -> None:
        before = [rights_of(database, role) for role in vars(login.roles).values()]

        login.let_in(database.owner_url)

        assert [rights_of(database, role) for role in vars(login.roles).values()] == before

    def test_takes_back_what_a_role_had_too_much(self, database: Database, login: Login) -> None:
        before = rights_of(database, login.roles.service)
        for table in (*HOST_TABLES, *OUR_TABLES, *VIEWS):
            database.connection.execute(f"GRANT ALL ON {table} TO {login.roles.service}")

        login.let_in(database.owner_url)

        assert rights_of(database, login.roles.service) == before

    def test_takes_back_what_everybody_had(self, database: Database, login: Login) -> None:
        for table in ("ops.cabinet_recovery_outbox", "ops.v_cabinet_recovery_identity"):
            database.connection.execute(f"GRANT ALL ON {table} TO PUBLIC")
        database.run("GRANT EXECUTE ON FUNCTION ops.cabinet_recovery_job_inserted() TO PUBLIC")

        login.let_in(database.owner_url)

        assert not any(
            database.value("SELECT has_table_privilege('public', %s, 'SELECT')", table)
            for table in ("ops.cabinet_recovery_outbox", "ops.v_cabinet_recovery_identity")
        )
        assert not database.value(
            "SELECT has_function_privilege('public', 'ops.cabinet_recovery_job_inserted()', 'EXECUTE')"
        )

    def test_warns_of_a_schema_in_which_everybody_may_create(self, database: Database, login: Login) -> None:
        database.run("GRANT CREATE ON SCHEMA public TO PUBLIC")
        told: list[str] = []

        apply(login.roles, Address.parse(database.owner_url), told.append)

        assert [line[:70] for line in told] == [
            "warning: everybody may create objects in schema public, and so shadow "
        ]

    @pytest.mark.parametrize(
        "names",
        [
            {"owner": "a$$b"}, {"service": ""}, {"reader": "x" * 64}, {"owner": "pg_mine"}, {"service": "public"},
            {"owner": "same", "reader": "same"}, {"reader": "a\nb"}, {"service": "a\0b"}, {"owner": "\udcff"},
        ],
    )  # fmt: skip
    def test_refuses_names_that_no_role_can_have(self, names: dict[str, str]) -> None:
        with pytest.raises(InvalidRoleName):
            Roles(**names)

    def test_quotes_any_other_name(self, database: Database, login: Login) -> None:
        strange = Roles(*(f'{login.name} "O\'Brien" %s; -- ñ{number}'[-60:] for number in range(3)))
        try:
            apply(strange, Address.parse(database.owner_url))

            quoted = strange.service.replace('"', '""')
            assert rights_of(database, quoted) == rights_of(database, login.roles.service)
        finally:
            login.let_in(database.owner_url)
            for role in vars(strange).values():
                name = sql.Identifier(role)
                database.connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


@pytest.fixture
def owned_by_a_plain_role(server_url: str) -> Iterator[str]:
    """A database whose owner is no superuser, and may make roles; nothing is in it yet."""
    with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
        url = empty.fresh()
        name = f"host_owner_{conninfo_to_dict(url)['dbname']}"[-50:]
        with closing(Database(url)) as admin:
            admin.connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
            admin.connection.execute(f"GRANT CREATE ON DATABASE {conninfo_to_dict(url)['dbname']} TO {name}")
            admin.connection.execute(f"GRANT CREATE ON SCHEMA public TO {name}")
        yield make_conninfo(url, user=name, password=PASSWORD)
        empty.drop(url)
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}")


def test_an_owner_without_any_other_power_migrates_grants_and_takes_all_back(
    server_url: str, owned_by_a_plain_role: str
) -> None:
    url = owned_by_a_plain_role
    unique = secrets.token_hex(4)
    roles = Roles(f"owner_{unique}", f"service_{unique}", f"reader_{unique}")
    project = Config(toml_file=SECURITY.parents[1] / "pyproject.toml", attributes={"url": url})
    try:
        migrate(Address.parse(url))
        apply(roles, Address.parse(url))
        command.downgrade(project, "0003")
        migrate(Address.parse(url))
        apply(roles, Address.parse(url))
        apply(roles, Address.parse(url))
        with closing(Database(url)) as database:
            lead = database.lead(matched_to=database.person())
            database.connection.execute(f"CREATE ROLE login_{unique} LOGIN PASSWORD '{PASSWORD}'")
            database.connection.execute(f"GRANT service_{unique} TO login_{unique}")
            database.url = make_conninfo(url, user=f"login_{unique}")
            assert database.reprocess(lead)[0].outcome == "recovered"
            database.url = url
            assert database.reprocess(lead)[0].outcome == "unchanged"
        command.downgrade(project, "base")
    finally:
        with psycopg.connect(make_conninfo(server_url, dbname=conninfo_to_dict(url)["dbname"])) as connection:
            for role in (*vars(roles).values(), f"login_{unique}"):
                connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


OWNED = """
    SELECT oid::regclass::text AS name FROM pg_class WHERE relowner = %s::regrole
    UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE proowner = %s::regrole
"""


def documented_rights() -> Iterator[tuple[str, set[str], dict[str, set[str] | None]]]:
    """The rows of the table: whose, on what, and each privilege with its columns where they are named."""
    for line in re.findall(r"^\| (?:owner|service|reader) \| .*$", SECURITY.read_text(encoding="utf-8"), re.MULTILINE):
        role, on, rights, _why = (cell.strip() for cell in line.strip("|").split(" | "))
        clauses = re.findall(
            r"(SELECT|INSERT|UPDATE|DELETE|USAGE)\b((?: of (?:(?!SELECT|INSERT|UPDATE|DELETE).)*)?)", rights
        )
        if not rights.startswith("owns"):
            yield role, objects_in(on), {privilege: columns_in(of) for privilege, of in clauses}


def objects_in(words: str) -> set[str]:
    names = set(re.findall(r"`(\w+)`", words))
    if words.startswith("all views but"):
        return {view.removeprefix("ops.") for view in VIEWS} - names
    if words.startswith("sequences"):
        return {f"{name}_id_seq" for name in names - {"id"}}
    return names


def columns_in(words: str) -> set[str] | None:
    names = set(re.findall(r"`(\w+)`", words))
    return names if names and not re.search("all but|the (key|rule)|it |keys", words) else None


@pytest.mark.parametrize("role", ["owner", "service", "reader"])
def test_the_table_of_rights_says_what_was_granted(database: Database, login: Login, role: str) -> None:
    """On each object the same privileges; the same columns too, where the table names them."""
    granted: dict[tuple[str, str], set[str | None]] = {}
    for right in rights_of(database, vars(login.roles)[role]):
        granted.setdefault((right.name.rpartition(".")[2], right.privilege), set()).add(right.column)
    documented = {
        (name, privilege): columns
        for one, names, privileges in documented_rights()
        if one == role
        for name in names
        for privilege, columns in privileges.items()
    }

    name = vars(login.roles)[role]
    owned = {row["name"].rpartition(".")[2] for row in database.run(OWNED, name, name)}
    assert set(documented) == {key for key in granted if key[0] not in owned}
    assert {key: granted[key] for key, columns in documented.items() if columns} == {
        key: columns for key, columns in documented.items() if columns
    }
