"""`medseg audit` and `medseg signers`: what happened here, and who may sign. Thin, as `flows/commands/medseg.py` is."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, group

audit_app = group("What happened in this project: the audit log, and the ledgers that people sign.")
signers_app = group(
    "Who may sign: release/allowed_signers and release/revoked_keys, in force once an approver signs them."
)

Model = Annotated[str | None, typer.Option(help="registered model; register.name unless told")]


@audit_app.command("verify")
def audit_verify(json: Json = False) -> None:
    """Check every line of the log and every statement of the ledgers, signed by whom and over which head.

    The first that is altered, missing or out of order is named. Exit code 1 if there is one.
    """
    enter_project()
    from flows import show, show_trust
    from pipelines.release import audit, ledger

    log, ledgers = audit.verify(), ledger.verify()
    found = {
        "ok": log.ok and ledgers.ok,
        "first_broken": log.first_broken or ledgers.first_broken,
        "lines": log.lines,
        "heads": log.heads,
        "statements": ledgers.statements,
    }
    (show.as_json if json else show_trust.verified)(found)
    if not found["ok"]:
        raise typer.Exit(1)


@audit_app.command("show")
def audit_show(
    event: Annotated[list[str] | None, typer.Option(help="only these, as in predict; may be repeated")] = None,
    last: Annotated[int, typer.Option(min=1, help="so many lines at most")] = 50,
    json: Json = False,
) -> None:
    """The last lines of the log."""
    enter_project()
    from collections import deque
    from dataclasses import asdict

    from flows import show, show_trust
    from pipelines.release import audit

    lines = [asdict(line) for line in deque(audit.read(event or None), maxlen=last)]
    if json:
        show.as_json({"lines": lines})
    else:
        show_trust.events(lines)


@signers_app.command("ls")
def signers_ls(model: Model = None, json: Json = False) -> None:
    """Who is listed, with which key, and whether that is in force."""
    enter_project(needs_mlflow=True)
    from flows import show, show_trust
    from pipelines import params
    from pipelines.release import registry, signers

    found = signers.read().rows(registry.ledger_here(model or params.load().register_.name).signers)
    if json:
        show.as_json({"signers": found})
    else:
        show_trust.people(found)


@signers_app.command("add")
def signers_add(
    name: Annotated[
        str, typer.Argument(help="e-mail address; more of the same person with commas: all they commit with")
    ],
    key: Annotated[Path, typer.Argument(metavar="KEY.pub", exists=True, dir_okay=False, resolve_path=True)],
    role: Annotated[
        str, typer.Option(help="author (trains, asks), approver (answers), or revoke: the key counts no more")
    ],
) -> None:
    """Write a person's public key into release/allowed_signers, or a revoked one into release/revoked_keys."""
    enter_project()
    from pipelines.release import signers

    file = signers.REVOKED if role == "revoke" else signers.ALLOWED
    if role == "revoke":
        signers.revoke(name, key)
    else:
        signers.add(name, key, role)
    print(f"{file} is written; it counts once an approver signs it: medseg signers sign --key KEY")


@signers_app.command("sign")
def signers_sign(
    key: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, resolve_path=True, help="an approver's; KEY.pub of one in an agent"),
    ],
    model: Model = None,
) -> None:
    """Put the files in force: an approver's statement in the model's ledger. The first one is taken on trust."""
    enter_project(needs_mlflow=True)
    from pipelines import params
    from pipelines.release import decisions, registry, signers
    from pipelines.release.statement import SIGNERS

    name, wanted = model or params.load().register_.name, signers.read()
    if registry.ledger_here(name).signers == wanted:
        raise ValueError(f"{signers.ALLOWED} and {signers.REVOKED} are in force for {name} already")
    statement = decisions.append(decisions.signed(decisions.prepared(name, SIGNERS, wanted.to_json()), key))
    print(
        f"statement {statement.number} of {statement.name}: signers, signed by {statement.by}; commit release/ to git"
    )
