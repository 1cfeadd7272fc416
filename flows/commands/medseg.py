"""`medseg`, the one command people type. Thin: it reads the arguments and hands over; slow imports wait until then.

Exit codes: 0 done, 1 refused or failed with a reason in one line on stderr, 2 wrong use, 75 training was
preempted and the same command goes on, 130 interrupted.
`--debug` anywhere shows the trace of an error.
"""

import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from flows.commands import audit as audit_commands
from flows.commands import card as card_commands
from flows.commands import (
    clusters,
    configuration,
    evaluation,
    exports,
    lineage,
    long_run,
    operations,
    projects,
    release,
)
from flows.commands import data as data_commands
from flows.commands import gate as gate_commands
from flows.commands import schedule as schedule_commands
from flows.commands import service as service_commands
from flows.commands import structures as structure_commands
from flows.commands.common import Command, Json, enter_project, group, log_to_terminal

app = group("Train, prove and release 3-D medical segmentation models.", cls=Command)
model_app = group("The network.")
app.command("init")(projects.make_project)
app.command("export")(exports.export_version)
app.add_typer(configuration.params_app, name="params")
app.add_typer(configuration.profile_app, name="profile")
app.add_typer(data_commands.app, name="data")
app.add_typer(structure_commands.app, name="structures")
app.add_typer(model_app, name="model")
app.add_typer(gate_commands.app, name="gate")
app.add_typer(audit_commands.audit_app, name="audit")
app.add_typer(audit_commands.signers_app, name="signers")
app.add_typer(card_commands.app, name="card")
app.add_typer(schedule_commands.app, name="schedule")
app.add_typer(clusters.launch_app, name="launch")
app.add_typer(service_commands.serve_app, name="serve")


@app.command("run")
def run_pipeline(
    profile: Annotated[str | None, typer.Option(help="put this profile in place of params.yaml")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change params.yaml, as in train.steps=20; may be repeated"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, resolve_path=True, help="folder of scans to read")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="wait for another run in this project to end")] = False,
    uncertified: Annotated[
        bool, typer.Option("--uncertified", help="train on many GPUs without a launch certificate; it is recorded")
    ] = False,
) -> None:
    """The main job: every stale stage, from raw scans to a registered version."""
    enter_project(needs_mlflow=True)
    if uncertified:
        os.environ["MEDSEG_UNCERTIFIED"] = "1"
    from flows import run as job
    from flows import show

    show.run_summary(job.run(profile, changes or [], data, wait))


@app.command("status")
def show_status(json: Json = False) -> None:
    """Which stages are fresh, what is registered, what to do next."""
    enter_project(needs_mlflow=True)
    from flows import show
    from flows import status as state
    from pipelines.work.garbage import uncollected

    with uncollected():  # MLflow's imports
        found = state.collect()
    (show.as_json if json else show.stages)(found)


@app.command("register")
def register_version(json: Json = False) -> None:
    """Make a version in MLflow of what lies here, after `dvc repro`, `dvc exp run` or `dvc pull`."""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from flows import lock, results, show
    from pipelines.release import registration
    from pipelines.training import curves

    with lock.held(doing="register"):
        curves.deliver_all()
        registration.make_version()
    result = results.collect()
    (show.as_json if json else show.run_summary)(result)


@app.command()
def predict(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", resolve_path=True, help="NIfTI, DICOM, zip or a folder of them")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", resolve_path=True, help="a NIfTI file or a folder")],
    model: Annotated[
        str | None, typer.Option(help="a registered version; models:/NAME@candidate of register.name unless told")
    ] = None,
    labels_of: Annotated[str | None, typer.Option(help="write this source's own label values")] = None,
    modality: Annotated[
        str | None, typer.Option(help="where names do not say: CT; of several channels in order: T1,FLAIR")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="make label maps that are there anew")] = False,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="accept other code than the version was evaluated with")
    ] = False,
    to: Annotated[
        str, typer.Option(help="comma list of nifti, dicom-seg, dicom-labelmap, rtstruct, sr, json, png")
    ] = "nifti",
    unfamiliar: Annotated[str, typer.Option(help="scans unlike those of training: flag, or refuse")] = "flag",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the first GPU if there is one")] = None,
    json: Json = False,
) -> None:
    """Segment scans with a registered version, on their own grid. What is there already is left as it is.

    INPUT also: a DICOM series, study or zip. After several scans a table says what was found in each and which were
    refused. --json: a line a result, with the version and whether it is released; the last one sums up.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would wait for work in the network's place
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from pipelines.work import devices

    devices.choose(device)
    from pipelines.work.garbage import uncollected

    with uncollected():
        from flows import show_prediction
        from pipelines import params
        from pipelines.release import registry
        from pipelines.serving.prediction import Prediction

        version = registry.find(model or f"models:/{params.load().register_.name}@candidate")
    this = f"models:/{version.name}/{version.version}"  # whatever becomes of an alias meanwhile
    kinds = [kind.strip() for kind in to.split(",")]
    prediction = Prediction.of(source, target, this, labels_of, modality, overwrite, other_code, kinds, unfamiliar)
    show_prediction.print_results(prediction, version.to_json(), json)


@app.command()
def ui() -> None:
    """Prefect and MLflow servers with a worker, until Ctrl-C."""
    enter_project()
    from flows import server

    server.serve(lambda addresses: print(_addresses(addresses), flush=True))


@app.command()
def env(json: Json = False) -> None:
    """The variables that say where and how a run happens, with their values now."""
    from flows import show
    from pipelines.work import environment

    variables = {"variables": environment.rows(), "unknown": environment.unknown()}
    (show.as_json if json else show.variables)(variables)


app.command("promote")(release.promote_version)
app.command("approve")(release.approve)
app.command("refuse")(release.refuse)
app.command("withdraw")(release.withdraw)
app.command("rollback")(release.roll_back)
app.command("recall")(release.recall_version)
app.command("release")(release.show_release)
app.command("evaluate")(evaluation.evaluate_folders)
app.command("compare")(evaluation.compare_versions)
app.command("reevaluate")(evaluation.reevaluate_version)
app.command("trace")(lineage.trace_version)
app.command("reproduce")(lineage.reproduce_version)
app.command("bundle")(lineage.bundle_version)
app.command("certify")(long_run.certify)
app.command("plan-run")(long_run.plan_run)
app.command("docs")(projects.list_documents)
app.command("doctor")(operations.examine)
app.command("backup")(operations.make_copy)
app.command("restore")(operations.take_copy)
app.command("metrics")(operations.show_metrics)


@model_app.command("summary")
def model_summary(preset: str, json: Json = False) -> None:
    """Parameters by part, FLOPs, memory."""
    from flows import show
    from model.network import sizes

    (show.as_json if json else show.table)(sizes.summary(preset))


def main() -> None:
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        os.environ["MEDSEG_DEBUG"] = "1"
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="medseg")
    finally:
        gc.freeze()  # Python looks for garbage once more before it ends: half a second where MLflow was imported


def _terminate(signum: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # leaving ends every child; a second signal must not break into that
    os.write(2, b"medseg: terminated; nothing is left running, the same command goes on from here\n")
    raise SystemExit(128 + signum)


def _addresses(addresses: dict[str, str]) -> str:
    asked = f"Log in   with the line in {addresses['login']}, which only you can read and each start makes anew\n"
    return (
        f"Prefect  {addresses['prefect']}\nMLflow   {addresses['mlflow']}\n{asked if addresses['login'] else ''}"
        "Ctrl-C ends what was started here."
    )


if __name__ == "__main__":
    main()
