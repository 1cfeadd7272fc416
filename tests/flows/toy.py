"""The stages of a toy project: same names, same outputs, no network. `python toy.py STAGE`, tethered.

A file `hold` makes train start a helper with a session of its own, write half an output, and wait: something to kill.
A file `release` ends its wait. A file `fail` makes train fail the way a real stage does; its text is the reason. A file
`preempt` makes it end the way a training does that was asked to stop.
"""

from pipelines.work.tether import tether

tether()

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from pipelines.work.writing import replacing, write_json  # noqa: E402

STRUCTURES = ("hippocampus_anterior", "hippocampus_posterior")


def inventory() -> None:
    from pipelines.stages import inventory as real

    real.main()


def ingest() -> None:
    """As many scans as the file `scans` says."""
    from pipelines.scans import manifest

    count = int(Path("scans").read_text()) if Path("scans").exists() else 0

    def scan(name: str) -> manifest.Row:
        files = [manifest.File(role, f"data/raw/{name}-{role}", sha256=f"{role}{name}") for role in ("MR", "label")]
        return manifest.Row(name, name, "msd", manifest.TRAIN, ["MR"], files, list(STRUCTURES))

    manifest.write(Path("data/manifest.parquet"), [scan(str(number)) for number in range(count)])


def preprocess() -> None:
    Path("data/cases").mkdir(exist_ok=True)
    Path("data/cases/all").write_text(Path("data/inventory.parquet").read_bytes().hex())


def train() -> None:
    from pipelines import params
    from pipelines.work import preemption

    print("".join(f"\rstep {step}/3" for step in (1, 2, 3)))
    if Path("fail").exists():
        print("Traceback (most recent call last): something long", file=sys.stderr)
        sys.exit(f"train: {Path('fail').read_text()}")
    if Path("preempt").exists():
        Path("preempt").unlink()
        preemption.note("train")
        sys.exit(preemption.EXIT_CODE)
    with replacing(Path("models/train")) as folder:
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
        if Path("hold").exists():
            helper = "from pipelines.work.tether import tether; tether(); import time; time.sleep(300)"
            subprocess.Popen([sys.executable, "-c", helper], start_new_session=True)
            Path("held").touch()
            while not Path("release").exists():
                time.sleep(0.1)
        settings = params.load()
        known = f"{settings.model.preset} {settings.train.learning_rate} {Path('data/cases/all').read_text()}"
        (folder / "model.safetensors").write_text(known)
        dice = 0.5 if settings.model.preset == "nano" else 0.7
        points = "".join(f"{step},{dice + 0.001 * (step % 2)}\n" for step in (1, 2, 3))
        (folder / "history.csv").write_text(f"step,validation_dice.mean\n{points}")


def evaluate() -> None:
    scores = dict.fromkeys(STRUCTURES, 0.9)
    by_source = {"msd": {name: {"dice": value, "cases": 4} for name, value in scores.items()}}
    with replacing(Path("reports/evaluate")) as folder:
        folder.mkdir()
        metrics = {"mean_dice": 0.9, "dice": scores, "by_source": by_source, "cases": 4, "structures": {}}
        write_json(folder / "metrics.json", metrics)
        (folder / "predictions").mkdir()
        for name in ("details.json", "cases.parquet", "predictions/1.nii.gz"):
            (folder / name).touch()


def register() -> None:
    """A record as the real stage writes it, of weights that are none."""
    from pipelines.release import record, run_identity
    from pipelines.scans import manifest
    from pipelines.work.digests import sha256_of

    metrics = Path("reports/evaluate/metrics.json")
    content = {
        "name": "medsegformer",
        "weights_sha256": sha256_of(Path("models/train/model.safetensors")),
        "identity": {"inputs_sha256": run_identity.inputs_sha256("train")},
        "conditions": {},
        **{key: json.loads(metrics.read_text())[key] for key in ("mean_dice", "dice", "cases")},
        "structures": list(STRUCTURES),
        "manifest_sha256": manifest.digest(),
        "test_set_sha256": manifest.test_set_sha256(),
        "evaluation_files": record.evaluation_files(metrics.parent),
    }
    with replacing(Path("models/register")) as folder:
        folder.mkdir()
        write_json(folder / "model.json", content)


def new_version(client: Any, name: str, tags: dict[str, str]) -> int:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(name, source="file:///nowhere", tags=tags)
    client.set_registered_model_alias(name, "candidate", version.version)
    return int(version.version)


if __name__ == "__main__":
    {each.__name__: each for each in (inventory, ingest, preprocess, train, evaluate, register)}[sys.argv[1]]()
