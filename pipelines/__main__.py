"""Run one stage: `python -m pipelines STAGE [--debug]`. dvc.yaml starts every stage through here.

What is no mistake of ours (pipelines/work/faults.py) ends in one line on stderr and exit code 1; `--debug` (or
MEDSEG_DEBUG=1) shows the trace instead.
"""

from pipelines.work.tether import tether

tether()  # before the slow imports: from here on, no orphan

import importlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

from pipelines.stages import CODE, STAGES  # noqa: E402
from pipelines.work import environment, faults, project  # noqa: E402
from pipelines.work.garbage import uncollected  # noqa: E402


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in (CODE, *STAGES):
        print(f"usage: python -m pipelines {{{','.join((CODE, *STAGES))}}} [--debug]", file=sys.stderr)
        return 2
    stage, debug = sys.argv[1], "--debug" in sys.argv or environment.debugging()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    for package in ("pipelines", "model"):
        logging.getLogger(package).setLevel(logging.INFO)
    environment.warn_of_unknown()
    try:
        project.link_scans()
        if stage == CODE:
            importlib.import_module("pipelines.work.code").write(STAGES[1:])  # the inventory is asked at every run
        else:
            with uncollected():
                module = importlib.import_module(f"pipelines.stages.{stage}")
            module.main()
    except Exception as error:
        if debug or (line := faults.told(error)) is None:
            raise
        rank = os.environ.get("RANK", "0")
        print(f"{stage}{'' if rank == '0' else f' (rank {rank})'}: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
