"""Write down what a version would be (DVC stage `register`).

Reads   models/train, reports/evaluate, params.yaml: register
Writes  models/register/model.json
Run     python -m pipelines register       # then `medseg register` makes the version in MLflow; `medseg run` does both

A stage's outputs come from DVC's cache, from another machine or from an experiment without the stage being run: so it
only writes a record, and versions are made from the record, by pipelines/release/registration.py.
"""

import logging

from pipelines import params
from pipelines.release import record
from pipelines.work import project
from pipelines.work.writing import replacing, write_json

log = logging.getLogger(__name__)


def main() -> None:
    content = record.make(params.load().register_.name, project.TRAINED, project.EVALUATION)
    with replacing(project.REGISTERED) as folder:
        folder.mkdir()
        write_json(folder / record.FILE.name, content)
    log.info("register: %s, weights %s", content["name"], content["weights_sha256"][:12])
