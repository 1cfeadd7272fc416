"""The registered model as MLflow loads it: NIfTI files in, label maps out.

    model = mlflow.pyfunc.load_model("models:/medsegformer@candidate")
    labels = model.predict(["scan.nii.gz"])                              # [uint8 (i, j, k), on the scan's own grid]
    labels = model.predict(["ct.nii.gz"], params={"modality": "CT"})     # where the model knows several modalities

Only a reference to the weights and their checksum are stored with the version; nothing here is pickled.
"""

from pathlib import Path

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel
from mlflow.pyfunc.model import PythonModelContext

from pipelines.release.registry import verified
from pipelines.scans.volume import read
from pipelines.serving.conditions import Conditions
from pipelines.serving.prediction import segment_scan
from pipelines.serving.segmenter import Segmenter


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
        return [segment_scan(self.segmenter, {"": read(Path(path))}, modality) for path in paths]


mlflow.models.set_model(MedSegModel())
