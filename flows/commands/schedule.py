"""What runs by itself: `medseg schedule on | off | status`."""

from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, group

app = group("What runs by itself: ingest, training by policy, re-evaluation. Off until you say `on`.")


@app.command("on")
def switch_on(
    training_at: Annotated[
        str, typer.Option(metavar="HH:MM", help="when the nightly training begins; 02:00 unless told, or as it is")
    ] = "",
    json: Json = False,
) -> None:
    """Set up the server and switch every schedule on; they run while `medseg ui`, or a worker, runs."""
    enter_project()
    from flows import schedule, show, show_schedule

    (show.as_json if json else show_schedule.table)(schedule.switch(True, training_at))


@app.command("off")
def switch_off(json: Json = False) -> None:
    """Switch every schedule off; a run that goes on ends as usual."""
    enter_project()
    from flows import schedule, show, show_schedule

    (show.as_json if json else show_schedule.table)(schedule.switch(False))


@app.command("status")
def show_schedule_status(json: Json = False) -> None:
    """What is on, when it runs next, how it ended last, and whether a worker is there to run it."""
    enter_project()
    from flows import schedule, show, show_schedule

    (show.as_json if json else show_schedule.table)(schedule.look())
