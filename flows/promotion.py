"""Release a registered version: the author's request waits here for an approver's signature (Prefect flow).

Reads   the author's request and the signers in release/ledger, the evidence in release/evidence
Writes  on a valid signature, and only then: the approval into the ledger, the alias in MLflow
Run     medseg promote 7 --to clinical-candidate --key KEY; then an approver: medseg approve RUN --key KEY --meaning ...

The flow suspends while it waits, and Prefect runs it again from the top once resumed: so everything above the
suspension only reads. What resumes it is a statement that somebody signed with a key of their own: Prefect knows no
persons, so a name in its form would prove nothing.
"""

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows import releasing
from pipelines.release import statement
from pipelines.release.standings import EXPIRES

Alias = Literal["clinical-candidate", "champion"]


class SignedAnswer(RunInput):
    """Used as the plain class: `with_initial_data` would drop the constraints."""

    signed: str = Field(max_length=20_000, description="the signed statement; `medseg approve` makes and sends it")


@flow(name="promotion", flow_run_name="version {version} to {alias}", persist_result=False)
def promotion(version: Annotated[int, Field(ge=1)], alias: Alias = "clinical-candidate") -> State[Any]:
    """An approver's signature, then the alias.

    Args:
        version: registered version, of register.name in params.yaml, whose author asked for the alias
        alias: the alias asked for
    """
    try:
        asked = releasing.open_request(version, alias)
    except ValueError as error:
        return Failed(message=str(error))
    get_run_logger().info("Request %d by %s waits for an approver: %s", asked.number, asked.by, asked.content)

    given = suspend_flow_run(wait_for_input=SignedAnswer, timeout=int(EXPIRES.total_seconds()))

    try:
        return Completed(message=releasing.answer(asked, statement.parse(given.signed)))
    except ValueError as error:
        return Failed(message=str(error))
