"""The registered model as MLflow loads it: a list of NIfTI paths in, label maps out.

    model = mlflow.pyfunc.load_model("models:/medsegformer@candidate")
    labels = model.predict(["scan.nii.gz"])          # [uint8 array (i, j, k) on the scan's own grid]

Only a reference to the weights and their checksum are stored with the version; nothing here is pickled.
"""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel
from mlflow.pyfunc.model import PythonModelContext

from pipelines.predict import segment_scan
from pipelines.registry import verified
from pipelines.segment import Segmenter
from pipelines.volume import read


class MedSegModel(PythonModel):  # type: ignore[misc]  # mlflow ships no types
    def load_context(self, context: PythonModelContext) -> None:
        reference = context.model_config
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=reference["weights_uri"]))
        self.segmenter = Segmenter.load(verified(path, reference["weights_sha256"]))

    def predict(self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None) -> Any:
        """`model_input`: paths of NIfTI files. `params`: {"modality": ...} where the model knows several."""
        modality = (params or {}).get("modality")
        return [segment_scan(self.segmenter, {"": read(Path(path))}, modality) for path in model_input]


mlflow.models.set_model(MedSegModel())
