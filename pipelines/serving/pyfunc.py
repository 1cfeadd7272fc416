"""A registered version as MLflow loads it: NIfTI files in, label maps out.

    model = mlflow.pyfunc.load_model("models:/medsegformer@candidate")
    labels = model.predict(["scan.nii.gz"])                              # [uint8 (i, j, k), on the scan's own grid]
    labels = model.predict(["ct.nii.gz"], params={"modality": "CT"})     # where the model knows several modalities

With the version MLflow stores the digest of a record and this module's name, neither weights nor code: the record is
looked up in the registry, the weights in the store, and code other than the evaluated is refused.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.release import registry
from pipelines.scans.volume import read
from pipelines.serving.conditions import Conditions
from pipelines.serving.prediction import segment_scan
from pipelines.serving.segmenter import Segmenter


class MedSegModel:
    def __init__(self, version: registry.RegisteredModel, other_code: bool) -> None:
        conditions = Conditions.of_version(version.record["conditions"], other_code)
        self.segmenter = Segmenter.load(version.weights(), conditions)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[np.ndarray]:
        """`model_input`: paths of NIfTI files, as a list or a table's first column. Structure ids, one array a scan."""
        paths = np.asarray(model_input, dtype=object).reshape(-1)
        modality = (params or {}).get("modality") or None
        return [segment_scan(self.segmenter, {"": read(Path(path))}, modality) for path in paths]


def _load_pyfunc(_path: str, model_config: dict[str, Any]) -> MedSegModel:
    """What MLflow calls. `model_config`: as registered; `other_code=True` on top accepts code not evaluated."""
    version = registry.find_by_record(model_config["name"], model_config["record_sha256"])
    return MedSegModel(version, bool(model_config.get("other_code")))
