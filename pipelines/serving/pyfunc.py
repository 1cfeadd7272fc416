"""A registered version as MLflow loads it: NIfTI files in, label maps out.

    model = mlflow.pyfunc.load_model("models:/medsegformer@candidate")
    labels = model.predict(["scan.nii.gz"])                              # [uint8 (i, j, k), on the scan's own grid]
    labels = model.predict(["ct.nii.gz"], params={"modality": "CT"})     # where the model knows several modalities

A scan that ingest would quarantine is refused; what it would note is logged, and so is what is unlike training scans.
With the version MLflow stores the digest of a record and this module's name, neither weights nor code: the record is
looked up in the registry, the weights in the store.
MLflow itself follows an alias, whoever moved it: so the log says, and `standing` of what is loaded, whether the signed
ledger has released the version.
The version's conditions of evaluation hold: `mlflow.pyfunc.load_model(uri, model_config={"other_code": True})` accepts
other code than was evaluated.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.intake import examination
from pipelines.release import audit, record, registry
from pipelines.scans.volume import VolumeError
from pipelines.serving import as_registered
from pipelines.serving.conditions import Conditions
from pipelines.serving.from_files import segment_files
from pipelines.serving.segmenter import Segmenter
from pipelines.work.digests import sha256_of

log = logging.getLogger(__name__)


class MedSegModel:
    def __init__(self, version: registry.RegisteredModel, other_code: bool) -> None:
        conditions = Conditions.from_json(version.record["conditions"]).checked(other_code)
        self.record_sha256 = record.digest(version.record)
        self.segmenter = Segmenter.load(as_registered.weights_of(version), conditions)
        self.known = as_registered.known_to(version)
        self.standing = version.told
        log.log(logging.INFO if version.standing.released else logging.WARNING, "%s", version.told)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[np.ndarray]:
        """`model_input`: paths of NIfTI files, as a list or a table's first column. Structure ids, one array a scan."""
        paths = np.asarray(model_input, dtype=object).reshape(-1)
        modality = (params or {}).get("modality") or None
        return [self._segment(number, Path(path), modality) for number, path in enumerate(paths)]

    def _segment(self, number: int, path: Path, modality: str | None) -> np.ndarray:
        """A scan goes by its number: whoever serves this keeps a log, and a path may name a patient."""
        try:
            found = segment_files(self.segmenter, {"": path}, modality, examination.bounds_here(), self.known)
        except VolumeError as error:
            raise VolumeError(f"input {number}: {error}") from None
        for note in found.notes:
            log.warning("input %d: %s", number, note)
        outputs = [hashlib.sha256(found.segmented.label.tobytes()).hexdigest()]
        audit.append("predict", record_sha256=self.record_sha256, inputs=[sha256_of(path)], outputs=outputs)
        return found.segmented.label


def _load_pyfunc(_path: str, model_config: dict[str, Any]) -> MedSegModel:
    """What MLflow calls. `model_config`: as registered; `other_code=True` on top accepts code not evaluated."""
    version = registry.find_by_record(model_config["name"], model_config["record_sha256"])
    return MedSegModel(version, bool(model_config.get("other_code")))
