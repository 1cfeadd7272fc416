"""The stages of a toy project: same names, same outputs, no network. `python toy.py STAGE` through pipelines/tether.py.

A file `hold` makes train start a helper with a session of its own, write half an output, and wait: something to kill.
A file `fail` makes train fail the way a real stage does; its text is the reason.
"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from pipelines.tether import tether

tether()

STRUCTURES = ("hippocampus_anterior", "hippocampus_posterior")


def inventory() -> None:
    lines = [f"{file.name} {file.read_text()}" for file in sorted(Path("data/raw").iterdir())]
    Path("data/inventory.parquet").write_text("\n".join(lines))


def ingest() -> None:
    from pipelines import manifest

    manifest.write(Path("data/manifest.parquet"), [])


def preprocess() -> None:
    Path("data/cases").mkdir(exist_ok=True)
    Path("data/cases/all").write_text(Path("data/inventory.parquet").read_text())


def train() -> None:
    folder = Path("models/train")
    folder.mkdir(parents=True)
    print("".join(f"\rstep {step}/3" for step in (1, 2, 3)))
    if Path("fail").exists():
        print("Traceback (most recent call last): something long", file=sys.stderr)
        sys.exit(f"train: {Path('fail').read_text()}")
    if Path("hold").exists():
        (folder / "model.safetensors").write_text("half")
        helper = "from pipelines.tether import tether; tether(); import time; time.sleep(300)"
        subprocess.Popen([sys.executable, "-c", helper], start_new_session=True)
        Path("held").touch()
        time.sleep(300)
    from pipelines import params

    settings = params.load()
    known = f"{settings.train.learning_rate} {Path('data/cases/all').read_text()}"
    (folder / "model.safetensors").write_text(known)


def evaluate() -> None:
    folder = Path("reports/evaluate")
    folder.mkdir(parents=True)
    scores = dict.fromkeys(STRUCTURES, 0.9)
    by_source = {"msd": {name: {"dice": value, "cases": 4} for name, value in scores.items()}}
    metrics = {"mean_dice": 0.9, "dice": scores, "by_source": by_source, "cases": 4}
    (folder / "metrics.json").write_text(json.dumps(metrics))


def register() -> None:
    from pipelines import tracking

    weights_sha256 = hashlib.sha256(Path("models/train/model.safetensors").read_bytes()).hexdigest()
    client = tracking.configure().MlflowClient()
    dice = json.loads(Path("reports/evaluate/metrics.json").read_text())["dice"]
    tags = {**tracking.identity(), "weights_sha256": weights_sha256, "mean_dice": "0.9", "dice": json.dumps(dice)}
    new_version(client, "medsegformer", tags)
    Path("models/register").mkdir(parents=True)
    model = {"name": "medsegformer", "weights_sha256": weights_sha256}
    Path("models/register/model.json").write_text(json.dumps(model))


def new_version(client, name: str, tags: dict[str, str]) -> int:
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
