"""Python's collector of garbage, kept out of imports: they make a million objects, nearly all for good.

    with uncollected():
        import mlflow

It would look through them again and again, and once more when the process ends: of `medseg predict` a third of all that
its imports cost.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected within; what is there at the end is set aside for good. For the start of a process: garbage
    that refers to itself, and was made within or before, stays."""
    if not gc.isenabled():  # within another
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
