"""The collector of garbage keeps out of imports, and is back after them."""

import gc

from pipelines.work.garbage import uncollected


def test_nothing_is_collected_within_and_what_is_there_is_set_aside() -> None:
    gc.unfreeze()
    try:
        with uncollected():
            with uncollected():
                assert not gc.isenabled()
            assert not gc.isenabled()
            assert not gc.get_freeze_count()
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
