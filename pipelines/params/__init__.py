"""params.yaml, typed: what it may hold, how it is read, where its values come from."""

from pipelines.params.block import ParamsError
from pipelines.params.reading import load
from pipelines.params.schema import Data, Deidentify, Evaluate, Model, Params, Preprocess

__all__ = ["Data", "Deidentify", "Evaluate", "Model", "Params", "ParamsError", "Preprocess", "load"]
