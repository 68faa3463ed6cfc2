"""`consumer grants`: the database roles, and the rights of each."""

from typing import Annotated

import typer

from consumer.commands.options import load_settings

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


def grants(
    do_apply: Annotated[bool, typer.Option("--apply", help="Do it, at DATABASE_URL, instead of printing it.")] = False,
    owner: Annotated[str, typer.Option(metavar="ROLE", help="Owns what is ours.")] = "cabinet_recovery_owner",
    service: Annotated[str, typer.Option(metavar="ROLE", help="What the consumer is.")] = "cabinet_recovery_service",
    reader: Annotated[str, typer.Option(metavar="ROLE", help="Looks at views.")] = "cabinet_recovery_reader",
) -> None:
    """Print, or apply, the SQL for the three database roles.

    Each gets the fewest rights that work. For psql, or for --apply, as the owner of the host's tables or a superuser;
    after `consumer migrate`, and again after each later one. It may be repeated. The login in DATABASE_URL is then made
    a member of the service role: GRANT cabinet_recovery_service TO recovery_login.
    """
    from db.roles import InvalidRoleName, Roles, apply

    try:
        roles = Roles(owner=owner, service=service, reader=reader)
    except InvalidRoleName as error:
        raise typer.BadParameter(str(error)) from error
    if do_apply:
        apply(roles, load_settings().database, tell=lambda line: typer.echo(line, err=True))
        typer.echo("the roles have their rights", err=True)
    else:
        typer.echo(roles.as_sql(), nl=False)
