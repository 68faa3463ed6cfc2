"""Settings and addresses: what is understood, and what is refused in a line that repeats no secret."""

import json
from dataclasses import Field, fields
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from consumer.settings import Settings, variable_of
from db.embedded import EmbeddedServer
from tests.database import Database
from tests.processes import (
    SECRET,
    WORKING,
    InThisProcess,
    refused,
    run_command,
)


class TestSettings:
    @pytest.mark.parametrize("command", [("run",), ("migrate",), ("uninstall", "--yes"), *WORKING], ids=" ".join)
    def test_without_an_address_nothing_starts(self, call: InThisProcess, command: tuple[str, ...]) -> None:
        for address in ({}, {"DATABASE_URL": ""}, {"DATABASE_URL": "  "}):
            line = refused(call(*command, **address), 2)

            assert "DATABASE_URL is not set" in line
            assert "consumer demo" in line

    @pytest.mark.parametrize(
        "setting",
        [one for one in fields(Settings) if {"most", "choices"} & set(one.metadata)],
        ids=lambda one: one.name,
    )
    def test_with_a_value_that_makes_no_sense_are_named(self, call: InThisProcess, setting: Field[Any]) -> None:
        name = variable_of(setting)
        wrong = ["", " ", "much"]
        if "most" in setting.metadata:
            wrong += ["-1", "1.5", "1e3", "\uff11", "9" * 50]
            wrong += [str(setting.metadata["least"] - 1), str(setting.metadata["most"] + 1)]
        for value in wrong:
            line = refused(call("sweep", DATABASE_URL="dbname=any", **{name: value}), 2)

            assert line.startswith(name), value

    def test_that_are_misspelt_are_told_of_and_the_rest_holds(self, database: Database) -> None:
        done = run_command("sweep", "--json", url=database.url, batch_sise="7", batch_size="7")

        told = [json.loads(line) for line in done.stderr.splitlines()]
        assert done.returncode == 0
        assert [(one["event"], one["name"]) for one in told] == [("setting.unknown", "CABINET_RECOVERY_BATCH_SISE")]

    def test_with_an_address_for_the_listener_that_is_none_name_it_and_do_not_repeat_it(
        self, call: InThisProcess
    ) -> None:
        name = "CABINET_RECOVERY_LISTENER_DATABASE_URL"

        assert refused(call("run", DATABASE_URL="dbname=any", **{name: f"password={SECRET} much"}), 2).startswith(name)
        # An empty line in a file of the environment sets nothing.
        assert refused(call("sweep", DATABASE_URL="dbname=any host=/nowhere", **{name: " "}), 4)

    def test_are_taken_with_blanks_around_and_in_capitals(self, database: Database) -> None:
        done = run_command("sweep", "--json", url=f" {database.url}\n", batch_size=" 7 ", log_level="WARNING")

        assert (done.returncode, done.stderr) == (0, "")


class TestAddresses:
    @pytest.mark.parametrize(
        "form",
        [
            "postgresql://{login}@{host}:{port}/fleet",
            "postgres://{login}@{host}:{port}/fleet",
            "postgresql+psycopg2://{login}@{host}:{port}/fleet",
            "postgresql+psycopg://{login}@{host}:{port}/fleet?connect_timeout=3",
            "postgresql+asyncpg://{login}@{host}:{port}/fleet?ssl=prefer",
            "postgresql+asyncpg://{login}@{host}:{port}/fleet?ssl=disable&application_name=a%20b",
            "postgresql://{login}@{host}:{port}/fleet?sslmode=disable",
            "postgresql://{login}@{host}:{port}/fleet?sslmode=prefer",
            "postgresql://{host}:{port}/fleet?user=postgres&password={password}",
            "postgresql://{login}@{host}:1,{host}:{port}/fleet",
            "postgresql://{login}@{host}:1,{host}:{port}/fleet?target_session_attrs=read-write",
            "host={host} port={port} dbname=fleet user=postgres password={password}",
            "host='{host}' port = {port} dbname=fleet user=postgres password='{password}' application_name='a://b'",
            "host={host},{host} port=1,{port} dbname=fleet user=postgres password={password}",
        ],
    )
    def test_of_every_shape_are_understood(
        self, call: InThisProcess, server: EmbeddedServer, remote: str, form: str
    ) -> None:
        password = conninfo_to_dict(remote)["password"]
        parts = {"host": "127.0.0.1", "port": server.port, "password": password, "login": f"postgres:{password}"}

        done = call("status", "--json", DATABASE_URL=form.format(**parts))

        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["pending_leads"] == 0

    @pytest.mark.parametrize(
        "address",
        [
            f"mysql://fleet:{SECRET}@127.0.0.1/fleet",
            f"postgresql:/fleet:{SECRET}@127.0.0.1/fleet",
            f"fleet:{SECRET}@127.0.0.1:5432/fleet",
            SECRET,
            f"host=127.0.0.1 pasword={SECRET}",
            f"host=127.0.0.1 password='{SECRET}",
            f"host=127.0.0.1 password=my {SECRET} dbname=fleet",
            f"postgresql://fleet:{SECRET}%zz@127.0.0.1:1/fleet",
            f"postgresql://fleet:{SECRET}@[::1/fleet",
            f"postgresql://fleet:{SECRET}@127.0.0.1:1/fleet?sslmood={SECRET}",
        ],
    )
    def test_that_are_none_are_refused_and_never_repeated(self, call: InThisProcess, address: str) -> None:
        assert "DATABASE_URL" in refused(call("sweep", DATABASE_URL=address), 2)

    @pytest.mark.parametrize(
        "address",
        [
            f"postgresql://fleet:{SECRET}/x@127.0.0.1:1/fleet",
            f"postgresql://fleet:x/{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:x@{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:x@{SECRET}:1/{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://me@fleet:{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:/{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:123/{SECRET}@127.0.0.1:1/fleet",
        ],
    )
    def test_with_a_password_that_is_not_in_percent_form_are_refused_and_never_repeated(
        self, call: InThisProcess, address: str
    ) -> None:
        line = refused(call("sweep", DATABASE_URL=address), 2)

        assert "DATABASE_URL" in line
        assert "percent form" in line

    @pytest.mark.parametrize(
        "options",
        [
            *("port=door", "port=99999", "port=1,2", "connect_timeout=soon", "sslmode=maybe"),
            *("target_session_attrs=any-will-do", "service=nowhere", "channel_binding=maybe", "gssencmode=maybe"),
        ],
    )
    def test_with_an_option_that_no_server_ever_sees_are_refused(self, call: InThisProcess, options: str) -> None:
        refused(call("sweep", DATABASE_URL=f"host=127.0.0.1 dbname=fleet password={SECRET} {options}"), 2)
