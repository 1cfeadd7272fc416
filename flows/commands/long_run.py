"""What a long run is prepared by: its certificate, a GPU's calibration, and the plan of all its rungs."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from flows.commands.common import Json, enter_project

KNOWN_GPUS = "a100-40gb, a100-80gb, h100, h200, b200; here: this machine's"


class TrainingStage(StrEnum):
    train = "train"
    pretrain = "pretrain"


class Strategy(StrEnum):
    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"
    hsdp = "hsdp"


def certify(
    preset: Annotated[str | None, typer.Option(help="size of the network; that of params.yaml unless told")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, max=65536, help="how many")] = None,
    gpu: Annotated[str, typer.Option(help=KNOWN_GPUS)] = "here",
    patch: Annotated[int | None, typer.Option(min=8, help="voxels per axis; as in the parameters")] = None,
    strategy: Annotated[Strategy, typer.Option(help="the one to use; auto: the best")] = Strategy.auto,
    network: Annotated[float | None, typer.Option(min=0.001, help="Gb/s a GPU between nodes; as sold with it")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="as in the parameters")] = None,
    scans: Annotated[int, typer.Option(min=1, help="of the whole cohort")] = 15_000,
    within_days: Annotated[float, typer.Option(min=0, help="what the run may take")] = 28.0,
    stage: Annotated[TrainingStage, typer.Option(help="of the pipeline")] = TrainingStage.train,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="time this machine's GPU instead, for later certificates; a minute")
    ] = False,
    json: Json = False,
) -> None:
    """The launch certificate: does a run fit in memory and in time? Simulated here, without a GPU."""
    enter_project()
    if calibrate:
        return _calibrate(preset, gpu, json)
    if gpus is None:
        raise typer.BadParameter("how many GPUs?", param_hint="--gpus")
    from flows import show, show_launch
    from pipelines.training.certification import certify as prove
    from pipelines.work.progress import tell

    content = prove(preset, gpus, gpu, patch, strategy.value, network, steps, scans, within_days, stage.value, tell)
    tell("")
    (show.as_json if json else show_launch.certificate)(content)
    if not content["fits"]:
        raise ValueError(_refused(content))


def plan_run(
    presets: Annotated[str, typer.Option(help="sizes, the smallest first")] = "small,base,large,xl",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="runs of the last size")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="of every rung; as in the parameters")] = None,
    profile: Annotated[str | None, typer.Option(help="put this profile in place of params.yaml")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="for every rung; may be repeated")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, max=65536, help="how many: to price and to certify")] = None,
    gpu: Annotated[str, typer.Option(help=KNOWN_GPUS)] = "here",
    days: Annotated[float, typer.Option(min=0, help="what all rungs together may take")] = 28.0,
    run: Annotated[bool, typer.Option("--run", help="train what is not done, in order")] = False,
    go_on: Annotated[bool, typer.Option("--go-on", help="also where a larger network was no better")] = False,
    json: Json = False,
) -> None:
    """The whole plan: a ladder of sizes at equal epochs, then seeds of the largest. What it costs; --run trains it."""
    enter_project(needs_mlflow=run)
    from flows import climbing, show, show_launch
    from pipelines.training import ladder
    from pipelines.work.progress import tell

    wished = [*(changes or []), *([f"train.steps={steps}"] if steps else [])]
    rungs = ladder.planned([name.strip() for name in presets.split(",")], seeds, profile, wished)
    content: dict[str, Any] = {"rungs": [asdict(rung) for rung in rungs], "record": ladder.recorded(rungs, profile)}
    if gpus is not None:
        from pipelines.training import ladder_costs

        costs = ladder_costs.priced(rungs, profile, gpus, gpu, days, tell)
        tell("")
        content |= {"costs": [asdict(cost) for cost in costs], "total": ladder_costs.summed(costs, days)}
    (show.as_json if json else show_launch.whole_plan)(content)
    if gpus is not None and not content["total"]["fits"]:
        raise ValueError(show_launch.over_budget(content))
    if run:
        place = climbing.Placement(gpus, gpu, days) if gpus is not None else None
        climbing.climb(rungs, profile, place, go_on, lambda line: typer.echo(line, err=True))
        show_launch.rung_table({"record": ladder.recorded(rungs, profile)})


def _calibrate(preset: str | None, gpu: str, json: bool) -> None:
    if gpu.lower() != "here":
        raise typer.BadParameter(f"{gpu}: only this machine's GPU can be timed", param_hint="--gpu")
    from flows import show, show_launch
    from pipelines.training.certification import calibrate_here
    from pipelines.work.progress import tell

    found = calibrate_here(preset, tell)
    tell("")
    (show.as_json if json else show_launch.calibrated)(asdict(found))


def _refused(content: dict[str, Any]) -> str:
    remedies = [f"{each['change']} ({' '.join(each['options'])})" for each in content["remedies"]]
    return f"{'; '.join(content['faults'])}. What would fit: {', or '.join(remedies) or 'nothing near'}"
