"""`medseg promote`, `approve`, `refuse`, `withdraw`, `rollback`, `recall`, `release`. Thin, as medseg.py is."""

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from flows.commands.common import Json, enter_project, log_to_terminal

Version = Annotated[int, typer.Argument(min=1)]
Run = Annotated[str, typer.Argument(metavar="RUN", help="as `medseg promote` printed it")]
Key = Annotated[
    Path,
    typer.Option(exists=True, dir_okay=False, resolve_path=True, help="your private key, or KEY.pub of an agent's"),
]
PerhapsKey = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, resolve_path=True, help="as `--key`")]
Meaning = Annotated[str, typer.Option(help="what your signature says: what you looked at, at least 10 characters")]
Reason = Annotated[str, typer.Option(help="why, at least 10 characters")]


def promote_version(
    version: Version,
    to: Annotated[str, typer.Option(help="alias: clinical-candidate or champion")] = "clinical-candidate",
    key: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, resolve_path=True, help="the author's private key; signs the request"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Gate, evidence, the author's signed request; then an approver's answer is waited for."""
    _enter(to)
    from flows import approval, show

    made = approval.promote(version, to, key)
    asked = made.request.content
    if json:
        show.as_json({"run": made.run, "request": made.request.number, **asked})
        return
    print(f"The gate passes version {version} as {to}: release/evidence/{asked['evidence_sha256']}.json")
    print(f"Request {made.request.number} of the ledger waits for an approver who is none of: {_authors(made.request)}")
    print(f'  medseg approve {made.run} --key KEY --meaning "..."')


def approve(
    promotion: Run,
    key: PerhapsKey = None,
    meaning: Meaning = "",
    signature: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, resolve_path=True, help="instead of --key: made by ssh-keygen elsewhere"
        ),
    ] = None,
) -> None:
    """Sign a request that waits, and move the alias. Without a key: write what to sign on another machine."""
    _answer(promotion, "approval", meaning, key, signature)


def refuse(promotion: Run, key: Key, meaning: Meaning) -> None:
    """Refuse a request that waits; the reason stays in the ledger."""
    _answer(promotion, "refusal", meaning, key)


def withdraw(promotion: Run, key: Key) -> None:
    """Take one's own request back."""
    _answer(promotion, "withdrawal", "", key)


def roll_back(
    key: Key,
    reason: Reason,
    version: Annotated[int | None, typer.Option(min=1, help="a former champion; the last")] = None,
) -> None:
    """Give `champion` back to the version that had it before. An approver signs."""
    _enter()
    from flows import releasing

    print(releasing.rollback(key, reason, version))


def recall_version(version: Version, key: Key, reason: Reason, json: Json = False) -> None:
    """A version must not be used any more. An approver signs; prints the predictions that it made."""
    _enter()
    from flows import releasing, show

    done = releasing.recall(version, key, reason)
    if json:
        show.as_json(done.__dict__)
        return
    print("; ".join([f"version {version} is recalled by {done.by}", *done.moved]))
    print(f"Predictions that it made here: {len(done.used)}")
    for line in done.used:
        print(f"  {line}")


def show_release(
    settle: Annotated[
        bool,
        typer.Option("--settle", help="let the aliases in MLflow follow the ledger: after a kill, or a move by hand"),
    ] = False,
    json: Json = False,
) -> None:
    """Who holds which alias by the signed ledger, what waits, and whether MLflow says the same."""
    _enter()
    from flows import releasing, show

    moved = releasing.settle() if settle else []
    content = {**releasing.overview(), "moved": moved}
    (show.as_json if json else _print_release)(content)


def _answer(promotion: str, kind: str, meaning: str, key: Path | None, signature: Path | None = None) -> None:
    try:
        run = UUID(promotion)
    except ValueError:
        raise typer.BadParameter(f"{promotion!r} is not a run; `medseg promote` prints it", param_hint="RUN") from None
    _enter()
    from flows import approval

    if signature:
        print(approval.answer_signed_elsewhere(run, signature).message)
    elif key:
        print(approval.answer(run, kind, meaning, key).message)
    else:
        file, namespace = approval.to_sign(run, kind, meaning)
        print(f"To be signed:  ssh-keygen -Y sign -f KEY -n {namespace} {file}")
        print(f"Then:          medseg approve {run} --signature {file}.sig")


def _enter(alias: str = "champion") -> None:
    if alias not in ("clinical-candidate", "champion"):
        raise typer.BadParameter(f"{alias!r} is neither clinical-candidate nor champion", param_hint="--to")
    enter_project(needs_mlflow=True)
    log_to_terminal()


def _authors(request: Any) -> str:
    return ", ".join(dict.fromkeys([request.by, *request.content["authors"]]))


def _print_release(content: dict[str, Any]) -> None:
    for alias, holder in content["holders"].items():
        print(f"{alias:<20} {f'record {holder[:12]}...' if holder else 'nobody'}")
    for waiting in content["requests"]:
        print(f"request {waiting['number']:<12} version {waiting['version']} as {waiting['alias']}, by {waiting['by']}")
    for sentence in content["unsettled"]:
        print(f"not settled          {sentence}; `medseg release --settle` sets it right")
    for sentence in content["moved"]:
        print(sentence)
