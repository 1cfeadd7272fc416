"""From the parameters of a training stage to what the engine, the network and the patches take.

Fields go by name: a setting that has the same name on both sides is handed over, and nothing is spelled twice.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from model.data.casefile import Case
from model.data.draws import AugmentConfig
from model.engine.parallelize import ParallelConfig
from model.engine.trainer import FitConfig
from model.network.config import PRESETS, NetworkConfig, modalities_with
from pipelines.cases.preparation import Preprocessing
from pipelines.params.recipe import Optimisation
from pipelines.params.schema import Model
from pipelines.scans.source_tables import by_source


def fit_config(settings: Optimisation) -> FitConfig:
    return FitConfig(**_common(settings, FitConfig))


def parallel_config(settings: Optimisation) -> ParallelConfig:
    return ParallelConfig(**_common(settings, ParallelConfig))


def augment_config(settings: Optimisation) -> AugmentConfig:
    return AugmentConfig(**settings.augment.model_dump())


def network_config(model: Model, cases: Iterable[Case]) -> NetworkConfig:
    """The preset, with rows for all that these cases show."""
    shown = {name for case in cases for name in case.record.modalities}
    return replace(PRESETS[model.preset], modalities=modalities_with(shown))


def _common(settings: Optimisation, kind: Any) -> dict[str, Any]:
    names = kind.__dataclass_fields__.keys() & type(settings).model_fields.keys()
    return {name: getattr(settings, name) for name in names}


SOURCE_BLOCK = 64  # micro-batches at most: those of a step of the largest runs' ranks that work side by side
BLOCKS_OF_A_STEP = 4  # at least, so that a step still mixes sources


def source_block(settings: Optimisation) -> int:
    """How many consecutive micro-batches are of one source; 1 where a step has few.

    A function of the parameters, not of the ranks: any number of them sees the same batches. Ranks that divide it never
    wait for each other's dearer source.
    """
    return max(1, min(SOURCE_BLOCK, settings.global_batch // settings.micro_batch // BLOCKS_OF_A_STEP))


def patch_size(source: str, settings: Optimisation, plan: Preprocessing) -> tuple[int, int, int]:
    """As params.yaml states it, or as planned."""
    d, h, w = by_source(settings.patch_size, source) or plan.sources[source].patch_size
    return d, h, w
