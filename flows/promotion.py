"""Release a registered version: gate, a named person's signature, alias (Prefect flow).

Reads   the version's tags and the present alias holder's in MLflow, release/plan.yaml
Writes  the decision as tags on the version; on approval, and only then, the alias
Run     medseg promote 7 --to clinical-candidate     # or the deployment `promotion` in the UI, then its Resume button

The flow suspends while it waits, and Prefect runs it again from the top once resumed: so everything above the
suspension only reads, and the gate is asked again with the holder and the floors as they are then.
"""

import re
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, State
from pydantic import Field, ValidationError

from pipelines import params
from pipelines.release import gate
from pipelines.release.registry import Registry
from pipelines.serving import gate_check
from pipelines.work import project

Alias = Literal["clinical-candidate", "champion"]
APPROVAL_DAYS = 30


class Approval(RunInput):
    """What the person who signs fills in.

    Used as the plain class: `with_initial_data` would drop the constraints. Prefect checks the form, and the flow
    checks it once more, spaces not counting, because a promotion must not rest on one check in another program.
    """

    approve: bool = Field(description="yes: move the alias; no: refuse, and keep the reason on the version")
    reviewer: str = Field(min_length=2, max_length=200, description="your name, at least 2 letters")
    reason: str = Field(min_length=10, max_length=2000, description="what you looked at, at least 10 characters")


@flow(name="promotion", flow_run_name="version {version} to {alias}", persist_result=False)
def promotion(
    version: Annotated[int, Field(ge=1)], alias: Alias = "clinical-candidate", name: str | None = None
) -> State[Any]:
    """Gate, signature, alias.

    Args:
        version: registered version
        alias: alias to move onto it
        name: registered model; empty: register.name in params.yaml
    """
    try:
        settings = params.load(project.root() / "params.yaml")
        registry = Registry(name or settings.register_.name)
        decision = gate_check.check(f"models:/{registry.name}/{version}", alias).verdict
    except ValueError as error:
        return Failed(message=str(error))
    if decision.verdict != gate.PASSES:
        registry.record(version, alias, "refused", by="gate", reasons=list(decision.reasons))
        return Failed(message=f"version {version} is refused: {'; '.join(decision.reasons)}")
    get_run_logger().info("The gate accepts version %d; waiting for a signature.", version)

    approval = suspend_flow_run(wait_for_input=Approval, timeout=APPROVAL_DAYS * 86400)

    try:
        validate(approval)
    except ValueError as error:
        return Failed(message=f"the signature is not valid, nothing was moved: {error}")
    verdict = "approved" if approval.approve else "refused"
    registry.record(version, alias, verdict, by=approval.reviewer, reasons=[approval.reason])
    if not approval.approve:
        return Completed(message=f"version {version} is refused by {approval.reviewer}: {approval.reason}")
    registry.move(alias, version)
    return Completed(message=f"{registry.name}@{alias} is now version {version}, approved by {approval.reviewer}")


def validate(approval: Approval) -> Approval:
    """The constraints once more, without surrounding spaces. Raises ValueError naming each field that fails."""
    stripped = {"approve": approval.approve, "reviewer": approval.reviewer.strip(), "reason": approval.reason.strip()}
    try:
        checked = Approval.model_validate(stripped)
    except ValidationError as error:
        raise ValueError("; ".join(f"{detail['loc'][0]}: {detail['msg']}" for detail in error.errors())) from None
    if len(re.findall(r"[^\W\d_]", checked.reviewer)) < 2:
        raise ValueError(f"reviewer {checked.reviewer!r}: a name has at least 2 letters")
    return checked
