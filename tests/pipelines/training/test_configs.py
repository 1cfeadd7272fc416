"""From the parameters to what trains: every setting arrives, and at one place only."""

from model.data.dataset import StreamConfig
from model.data.draws import AugmentConfig
from model.engine.parallelize import ParallelConfig
from model.engine.trainer import FitConfig
from pipelines.params.recipe import Augment, Train

OWNERS = (FitConfig, ParallelConfig, StreamConfig)
OF_THE_NETWORK = {"freeze_encoder"}


def test_every_setting_of_training_has_one_owner() -> None:
    owners = {
        name: [kind.__name__ for kind in OWNERS if name in kind.__dataclass_fields__] for name in Train.model_fields
    }
    assert {name for name, found in owners.items() if len(found) != 1} == OF_THE_NETWORK


def test_no_strength_of_augmentation_is_left_to_a_default() -> None:
    assert Augment.model_fields.keys() == AugmentConfig.__dataclass_fields__.keys()
