"""Run one stage: `python -m pipelines STAGE [--debug]`. dvc.yaml starts every stage through here.

Bad input ends in one line on stderr and exit code 1; `--debug` (or MEDSEG_DEBUG=1) shows the trace instead.
"""

from pipelines.work.tether import tether

tether()  # before the slow imports: from here on, no orphan

import importlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

STAGES = ("inventory", "deidentify", "ingest", "plan", "preprocess", "pretrain", "train", "evaluate", "register")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in STAGES:
        print(f"usage: python -m pipelines {{{','.join(STAGES)}}} [--debug]", file=sys.stderr)
        return 2
    stage, debug = sys.argv[1], "--debug" in sys.argv or os.environ.get("MEDSEG_DEBUG") == "1"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    for package in ("pipelines", "model"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        importlib.import_module(f"pipelines.stages.{stage}").main()
    except (ValueError, OSError) as error:
        if debug:
            raise
        rank = os.environ.get("RANK", "0")
        print(f"{stage}{'' if rank == '0' else f' (rank {rank})'}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
