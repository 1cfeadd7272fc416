"""`medseg`, the one command people type. Thin: it reads the arguments and hands over; slow imports wait until then.

Exit codes: 0 done, 1 refused or failed with a reason in one line on stderr, 2 wrong use, 130 interrupted.
`--debug` anywhere shows the trace of an error.
"""

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _Command(TyperGroup):
    """Turns what a command raises into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("medseg: interrupted; nothing is left running, the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `medseg ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (ValueError, OSError) as error:
            if os.environ.get("MEDSEG_DEBUG") == "1":
                raise
            print(f"medseg: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(1) from None


def _group(help_text: str, **settings: Any) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        **settings,
    )


app = _group("Train, prove and release 3-D medical segmentation models.", cls=_Command)
params_app = _group("params.yaml: validate it.")
profile_app = _group("Whole parameter files: list them, put one in place of params.yaml.")
data_app = _group("Scans: the manifest, a folder's contents, public data.")
model_app = _group("The network.")
app.add_typer(params_app, name="params")
app.add_typer(profile_app, name="profile")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")


class Strategy(StrEnum):
    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"
    hsdp = "hsdp"


Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, resolve_path=True)]
Reviewer = Annotated[str | None, typer.Option(help="your name: signs in one go, with --reason")]
Reason = Annotated[str | None, typer.Option(help="what you looked at, at least 10 characters")]
Reject = Annotated[bool, typer.Option("--reject", help="refuse instead of approve")]


@app.command()
def run(
    profile: Annotated[str | None, typer.Option(help="whole parameter file to put in place of params.yaml")] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, resolve_path=True, help="folder of scans to read")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="wait for another run in this project to end")] = False,
    uncertified: Annotated[
        bool, typer.Option("--uncertified", help="train on many GPUs without a launch certificate; it is recorded")
    ] = False,
) -> None:
    """The main job: every stale stage, from raw scans to a registered version."""
    _enter_project()
    if uncertified:
        os.environ["MEDSEG_UNCERTIFIED"] = "1"
    from flows import run as job
    from flows import show

    show.run_summary(job.run(profile, data, wait))


@app.command()
def status(json: Json = False) -> None:
    """Which stages are fresh, what is registered, what to do next."""
    _enter_project()
    from flows import show
    from flows import status as state

    (show.as_json if json else show.status)(state.collect())


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(metavar="INPUT", resolve_path=True, help="a NIfTI file or a folder")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", resolve_path=True, help="a NIfTI file or a folder")],
    model: Annotated[str, typer.Option(help="a registered version")] = "models:/medsegformer@candidate",
    labels_of: Annotated[str | None, typer.Option(help="write this source's own label values")] = None,
    modality: Annotated[str | None, typer.Option(help="of a single file, where its name does not say")] = None,
) -> None:
    """Segment scans with a registered version, on their own grid."""
    _enter_project()
    from pipelines.predict import predict as segment

    for path in segment(source, target, model, labels_of, modality):
        print(path)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(min=1)],
    to: Annotated[str, typer.Option(help="alias to move: clinical-candidate or champion")] = "clinical-candidate",
    reviewer: Reviewer = None,
    reason: Reason = None,
    reject: Reject = False,
) -> None:
    """Gate, a named person's signature, alias."""
    signature = _signature(reviewer, reason, reject) if reviewer or reason or reject else None
    _enter_project()
    from flows import approval

    outcome = approval.promote(version, to, signature)
    if not outcome.waiting:
        print(outcome.message)
    else:
        print(f"The gate accepts version {version}; it waits for a signature. Sign in `medseg ui` (Resume), or by")
        print(f'  medseg approve {outcome.run} --reviewer NAME --reason "..."')


@app.command()
def approve(
    promotion: Annotated[str, typer.Argument(metavar="RUN", help="as `medseg promote` printed it")],
    reviewer: Reviewer = None,
    reason: Reason = None,
    reject: Reject = False,
) -> None:
    """Sign a promotion that waits."""
    from uuid import UUID

    try:
        run_id = UUID(promotion)
    except ValueError:
        raise typer.BadParameter(f"{promotion!r} is not a run; `medseg promote` prints it", param_hint="RUN") from None
    signature = _signature(reviewer, reason, reject)
    _enter_project()
    from flows import approval

    print(approval.approve(run_id, signature).message)


@app.command()
def certify(
    preset: Annotated[str, typer.Option(help="size of the network")],
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="how many")],
    gpu: Annotated[str, typer.Option(help="a100-40gb, a100-80gb, h100, h200 or b200")],
    patch: Annotated[int | None, typer.Option(min=8, help="voxels per axis; as in the parameters")] = None,
    strategy: Annotated[Strategy, typer.Option(help="the one to use; auto: the best")] = Strategy.auto,
    network: Annotated[float | None, typer.Option(min=0.001, help="Gb/s a GPU between nodes; as sold with it")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="as in the parameters")] = None,
    scans: Annotated[int, typer.Option(min=1, help="of the whole cohort")] = 15_000,
    within_days: Annotated[float, typer.Option(min=0, help="what the run may take")] = 28.0,
    json: Json = False,
) -> None:
    """The launch certificate: does a run fit in memory and in time? Simulated here, without a GPU."""
    _enter_project()
    from flows import show
    from pipelines.certify import certify as prove

    content = prove(preset, gpus, gpu, patch, strategy.value, network, steps, scans, within_days, _progress)
    _progress("")
    (show.as_json if json else show.certificate)(content)
    if not content["fits"]:
        raise ValueError(_refused(content))


@app.command()
def ui() -> None:
    """Prefect and MLflow servers with a worker, until Ctrl-C."""
    _enter_project()
    from flows import server

    server.serve(lambda addresses: print(_addresses(addresses), flush=True))


@params_app.command("check")
def params_check() -> None:
    """Validate params.yaml."""
    _enter_project()
    from pipelines import params

    params.load()
    print("params.yaml is valid")


@profile_app.command("use")
def profile_use(name: str) -> None:
    """Put profiles/NAME.yaml in place of params.yaml."""
    _enter_project()
    from flows import lock
    from pipelines import profiles

    with lock.held(doing="profile"):
        kept = profiles.use(name)
    print(f"params.yaml is now profile {name}" + (f"; your own is kept in {kept}" if kept else ""))


@profile_app.command("ls")
def profile_ls(json: Json = False) -> None:
    """The profiles; the one in use has a star."""
    _enter_project()
    from flows import show
    from pipelines import profiles

    names, used = profiles.names(), profiles.in_use()
    if json:
        show.as_json({"profiles": names, "in_use": used})
    else:
        print("\n".join(f"{'*' if name == used else ' '} {name}" for name in names))


@data_app.command("ls")
def data_ls(json: Json = False) -> None:
    """Every scan of the manifest."""
    _enter_project()
    from pipelines import manifest

    _show_scans(manifest.listing(), json)


@data_app.command("check")
def data_check(folder: Folder, json: Json = False) -> None:
    """What a folder holds, what would be quarantined, and why. Writes nothing."""
    from pipelines import check

    _show_scans(check.check(folder), json)


@data_app.command("key")
def data_key(
    path: Annotated[Path, typer.Argument(metavar="NEWFILE", dir_okay=False, resolve_path=True)],
) -> None:
    """Make the secret key that patients' pseudonyms are made with, outside the project."""
    from pipelines.dicom import key

    print(f"export {key.VARIABLE}={key.create(path)}")


@data_app.command("whereis")
def data_whereis(pseudonym: str, json: Json = False) -> None:
    """Which raw DICOM files a pseudonym stands for: of a patient, study, series, file or case. Needs the key."""
    _enter_project()
    from flows import show
    from pipelines import whereis

    paths = whereis.find(pseudonym)
    if json:
        show.as_json({"files": paths})
    else:
        print("\n".join(paths))


@data_app.command("audit-phi")
def data_audit_phi(json: Json = False) -> None:
    """Search every byte of every output for what identifies a patient in the raw DICOM. Exit code 1 if any is found."""
    _enter_project()
    from flows import show
    from pipelines import phi

    result = phi.audit()
    (show.as_json if json else show.audit)(result)
    if not result["ok"]:
        raise typer.Exit(1)


@data_app.command("plan")
def data_plan(json: Json = False) -> None:
    """Target spacing, patch and normalisation of every source, each with its reason."""
    _enter_project()
    from flows import show
    from pipelines import plan

    (show.as_json if json else show.plan)(plan.read())


@data_app.command("verify")
def data_verify(
    reread: Annotated[
        bool, typer.Option("--reread", help="read every byte, even of files that look untouched")
    ] = False,
    json: Json = False,
) -> None:
    """Check that every scan's files and case file still have their size and hash. Exit code 1 if one does not."""
    _enter_project()
    _log_to_terminal()
    from flows import show
    from pipelines import verify

    found = verify.verify(reread)
    (show.as_json if json else show.verification)(found)
    if not found["ok"]:
        raise typer.Exit(1)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="hippocampus")],
    to: Annotated[
        Path | None, typer.Option(file_okay=False, resolve_path=True, help="folder to unpack into; data/raw")
    ] = None,
) -> None:
    """Download a public data set."""
    _enter_project()
    _log_to_terminal()
    from pipelines import fetch, project

    print(fetch.fetch(name, to or project.root() / project.RAW))


@model_app.command("summary")
def model_summary(preset: str, json: Json = False) -> None:
    """Parameters by part, FLOPs, memory."""
    from flows import show
    from model import config

    (show.as_json if json else show.table)(config.summary(preset))


def main() -> None:
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        os.environ["MEDSEG_DEBUG"] = "1"
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
    app([argument for argument in arguments if argument != "--debug"], prog_name="medseg")


def _terminate(signum: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # leaving ends every child; a second signal must not break into that
    os.write(2, b"medseg: terminated; nothing is left running, the same command goes on from here\n")
    raise SystemExit(128 + signum)


def _enter_project() -> None:
    """Stages and their helpers use paths relative to the root; arguments were made absolute before."""
    from pipelines import project

    os.chdir(project.root())


def _signature(reviewer: str | None, reason: str | None, reject: bool) -> Any:
    if not reviewer or not reason:
        raise typer.BadParameter("a signature needs both --reviewer and --reason")
    from flows.approval import Signature

    return Signature(reviewer, reason, approve=not reject)


def _show_scans(rows: list[dict[str, Any]], json: bool) -> None:
    from flows import show

    if json:
        show.as_json({"scans": rows})
    else:
        show.scans(rows)


def _log_to_terminal() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _progress(line: str) -> None:
    """On a terminal one line of stderr that is written over, and at the end empty."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


def _refused(content: dict[str, Any]) -> str:
    remedies = [f"{each['change']} ({' '.join(each['options'])})" for each in content["remedies"]]
    return f"{'; '.join(content['faults'])}. What would fit: {', or '.join(remedies) or 'nothing near'}"


def _addresses(addresses: dict[str, str]) -> str:
    return f"Prefect  {addresses['prefect']}\nMLflow   {addresses['mlflow']}\nCtrl-C ends both and the worker."


if __name__ == "__main__":
    main()
