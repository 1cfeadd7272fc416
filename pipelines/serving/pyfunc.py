"""The registered model as MLflow loads it: NIfTI files in, label maps out.

    model = mlflow.pyfunc.load_model("models:/medsegformer@candidate")
    labels = model.predict(["scan.nii.gz"])                              # [uint8 (i, j, k), on the scan's own grid]
    labels = model.predict(["ct.nii.gz"], params={"modality": "CT"})     # where the model knows several modalities

A scan that ingest would quarantine is refused; what it would note is logged. The version's conditions of evaluation
hold: `mlflow.pyfunc.load_model(uri, model_config={"other_code": True})` accepts other code than was evaluated.

Only a reference to the weights and their checksum are stored with the version; nothing here is pickled.
"""

import logging
from pathlib import Path

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel
from mlflow.pyfunc.model import PythonModelContext

from pipelines.intake import examination
from pipelines.release.registry import verified
from pipelines.scans.volume import VolumeError
from pipelines.serving.conditions import Conditions
from pipelines.serving.from_files import segment_files
from pipelines.serving.segmenter import Segmenter

log = logging.getLogger(__name__)


class MedSegModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        reference = context.model_config
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=reference["weights_uri"]))
        conditions = Conditions.of_version(reference.get("conditions"), bool(reference.get("other_code")))
        self.segmenter = Segmenter.load(verified(path, reference["weights_sha256"]), conditions)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """`model_input`: paths of NIfTI files, as a list or a table's first column. Structure ids, one array a scan."""
        paths = np.asarray(model_input, dtype=object).reshape(-1)
        modality = (params or {}).get("modality") or None
        return [self._segment(number, Path(path), modality) for number, path in enumerate(paths)]

    def _segment(self, number: int, path: Path, modality: str | None) -> np.ndarray:
        """A scan goes by its number: whoever serves this keeps a log, and a path may name a patient."""
        try:
            label, _, notes = segment_files(self.segmenter, {"": path}, modality, examination.bounds_here())
        except VolumeError as error:
            raise VolumeError(f"input {number}: {error}") from None
        for note in notes:
            log.warning("input %d: %s", number, note)
        return label


mlflow.models.set_model(MedSegModel())
