"""A registered version, with all that an export of it must tell."""

from dataclasses import asdict, dataclass
from typing import Any

from model.network.config import NetworkConfig, rows_of
from model.network.unfilled import unfilled
from pipelines.cases.preparation import Preprocessing
from pipelines.intake import examination
from pipelines.params.quality_bounds import Quality
from pipelines.release import record, registry
from pipelines.serving import as_registered
from pipelines.serving.conditions import Conditions
from pipelines.serving.exported_network import ExportedNetwork
from pipelines.serving.prediction import STANDING
from pipelines.serving.scan_search import MADE_HERE
from pipelines.serving.segmenter import Segmenter


@dataclass(frozen=True)
class Exportable:
    """`use`: what it is released as when it is exported, or that it is not. `content`: its record. `bounds`: of the
    examination of scans."""

    name: str
    number: str
    use: str
    content: dict[str, Any]
    segmenter: Segmenter
    bounds: Quality

    @staticmethod
    def find(model: str, other_code: bool = False) -> "Exportable":
        """`model`, `other_code`: as `pipelines.serving.prediction.predict` has them; so are the refusals."""
        version = registry.find(model)
        conditions = Conditions.from_json(version.record["conditions"]).checked(other_code)
        segmenter = Segmenter.load(as_registered.weights_of(version), conditions)
        segmenter.network.to("cpu")
        number, bounds = str(version.version), examination.bounds_here()
        return Exportable(version.name, number, version.mark, version.record, segmenter, bounds)

    @property
    def called(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def mark(self) -> str:
        """The free text of its label maps: a folder of scans is read without them, and a viewer tells the standing."""
        return f"{MADE_HERE} {self.record_sha256[:16]}{STANDING}{self.use}"

    @property
    def record_sha256(self) -> str:
        return record.digest(self.content)

    @property
    def weights_sha256(self) -> str:
        return str(self.content["weights_sha256"])

    @property
    def plan(self) -> Preprocessing:
        return self.segmenter.plan

    @property
    def network_config(self) -> NetworkConfig:
        return self.segmenter.network.config

    @property
    def structures(self) -> dict[str, int]:
        return self.segmenter.card.structures

    def network_arguments(self, source: str) -> dict[str, Any]:
        """Of ExportedNetwork, as plain values: channels are all the source's modalities, in order."""
        own = self.plan.sources[source]
        return {
            "network": asdict(self.network_config),
            "classes": len(self.segmenter.card.classes) + 1,
            "groups": self.segmenter.shown(source).groups,
            "rows": rows_of(sorted(own.modalities), self.network_config.modalities),
            "spacing_mm": own.spacing_mm,
        }

    def network(self, source: str) -> ExportedNetwork:
        """With the version's weights, on the CPU, in evaluation mode."""
        with unfilled():
            made = ExportedNetwork(**self.network_arguments(source))
        made.network = self.segmenter.network
        return made.eval()
