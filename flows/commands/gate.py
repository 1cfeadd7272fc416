"""May a version be released, what can this test set show, and by which plan: `medseg gate`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, group, log_to_terminal, model_uri

app = group("The release gate: its verdict on a version, its power on this test set, its plan.")

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--sign", exists=True, dir_okay=False, resolve_path=True, help="an approver's key; KEY.pub in an agent"
    ),
]
Table = typer.Option(exists=True, dir_okay=False, resolve_path=True, help="cases.parquet of an evaluation")


@app.command("check")
def check_version(
    version: Annotated[str, typer.Argument(help="a number, an alias, or models:/NAME/3")],
    to: Annotated[str, typer.Option(help="alias that it is to have")] = "clinical-candidate",
    json: Json = False,
) -> None:
    """Ask the gate: figures against plan and champion, label maps scored anew, some scans segmented anew.

    Exit code 1 unless it passes. Nothing is moved.
    """
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from flows import show, show_gate
    from pipelines.release import gate
    from pipelines.serving import gate_check

    answer = gate_check.check(model_uri(version), to)
    (show.as_json if json else show_gate.verdict)(answer.to_json())
    if answer.verdict.verdict != gate.PASSES:
        raise typer.Exit(1)


@app.command("power")
def tell_power(
    version: Annotated[
        str | None, typer.Argument(help="whose figures tell; those in reports/evaluate unless told")
    ] = None,
    cases: Annotated[Path | None, Table] = None,
    against: Annotated[Path | None, Table] = None,
    patients: Annotated[
        list[int] | None, typer.Option(min=2, help="of the test set; as many as there are, 50, 100, 200 unless told")
    ] = None,
    agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="correlation of two versions' figures, without --against")
    ] = None,
    page: Annotated[Path | None, typer.Option(resolve_path=True, help="write an HTML page with the curves")] = None,
    json: Json = False,
) -> None:
    """Before training: how often a version would pass that is as good as the champion, or worse by so much."""
    if version is not None and cases is not None:
        raise typer.BadParameter("name a version or --cases, not both", param_hint="VERSION")
    enter_project(needs_mlflow=version is not None)
    from flows import show, show_gate
    from pipelines.evaluation import tables
    from pipelines.release import plan, power

    scores = tables.read(cases or _cases_of(version))
    own = len({score.patient for score in scores})
    found = power.power(
        scores,
        None if against is None else tables.read(against),
        plan.read().bounds,
        patients or sorted({own, 50, 100, 200}),
        power.AGREEMENT if agreement is None else agreement,
    )
    if json:
        show.as_json(found.to_json())
    else:
        show_gate.power_table(found)
    if page is not None:
        show_gate.power_page(found, page)


@app.command("plan")
def show_plan(key: KeyFile = None, json: Json = False) -> None:
    """The release plan and its digest; with --sign, an approver's statement that puts it in force."""
    enter_project(needs_mlflow=True)
    from flows import show, show_gate
    from pipelines import params
    from pipelines.release import plan, registry

    name, text = params.load().register_.name, plan.text()
    sha256 = plan.digest(plan.read())
    if key is not None:
        _sign(name, {"plan_sha256": sha256, "text": text}, key)
    content = {"plan_sha256": sha256, "signed": registry.ledger_here(name).plan_sha256, "text": text}
    (show.as_json if json else show_gate.plan_text)(content)


def _cases_of(version: str | None) -> Path:
    """Of the version's dossier, or of the evaluation that lies in the project."""
    from pipelines.evaluation import tables
    from pipelines.work import project

    if version is None:
        return project.root() / project.EVALUATION / tables.PARQUET
    from pipelines.release import dossier, record, registry

    found = registry.find(model_uri(version))
    return dossier.find(record.digest(found.record), found.run_id) / dossier.EVALUATION / tables.PARQUET


def _sign(name: str, content: dict[str, str], key: Path) -> None:
    from pipelines.release import decisions, registry
    from pipelines.release.statement import PLAN

    if registry.ledger_here(name).plan_sha256 == content["plan_sha256"]:
        raise ValueError(f"this plan is in force for {name} already; nothing was signed")
    decisions.append(decisions.signed(decisions.prepared(name, PLAN, content), key))
