"""The champion on labelled scans that were held out after it was registered (Prefect flow).

Reads   data/raw and all that the stages up to `preprocess` read; the champion and its dossier
Writes  reports/reevaluate/NAME-VERSION/; Prefect's artifact `reevaluation`, a table
Run     deployment `reevaluation/weekly`, once `medseg schedule on` was said; by hand: medseg reevaluate
Expect  no champion, or no new scan: Skipped. A mean Dice more than `drop` below the one it was released with: `Worse`,
        a failure, of which MEDSEG_WEBHOOK is told
"""

from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows import gpu_slot, lock, outcomes
from flows.in_turn import InTurn
from pipelines import params
from pipelines.release import registry

LAST, WORSE = "preprocess", "Worse"


@flow(name="reevaluation", persist_result=False)
def reevaluation(drop: Annotated[float, Field(gt=0, le=1)] = 0.05, wait: bool = True) -> State[Any]:
    """The champion on new labelled held-out scans.

    Args:
        drop: in mean Dice, against the one it was released with, that counts as worse
        wait: wait for another run in this project to end, instead of leaving this one out
    """
    try:
        if (model := registry.champion(params.load().register_.name)) is None:
            return outcomes.skipped("there is no champion yet")
        with lock.held(wait) as held:
            if failed := InTurn(held).up_to(LAST):
                return failed
            with gpu_slot.taken():
                return _told(measured(model), drop)
    except Exception as error:
        return outcomes.of(error)


@task(cache_policy=NO_CACHE, persist_result=False)
def measured(model: str) -> dict[str, Any]:
    from pipelines.serving import reevaluating  # torch: seconds

    return reevaluating.reevaluate(model)


def _told(found: dict[str, Any], drop: float) -> State[Any]:
    if not found["cases"]:
        return outcomes.skipped(f"no labelled held-out scan is new since version {found['version']}")
    said = (
        f"{found['name']} version {found['version']}: mean Dice {found['mean_dice']:.3f} on {found['cases']} new "
        f"scans, {found['mean_dice_then']:.3f} when it was released"
    )
    create_table_artifact(found["structures"], key="reevaluation", description=f"{said}; see {found['report']}.")
    get_run_logger().info(said)
    if found["mean_dice"] < found["mean_dice_then"] - drop:
        return Failed(name=WORSE, message=said)
    return Completed(message=said)
