"""Attacks and faults that were tried on the product, driven again: each must be held.

Run     make attacks        # all, some 12 minutes on 2 cores; python -m benchmarks.attacks servers predict: those only
Expect  a line for each, `held` or `FAILED` with the number of tests behind it; exit code 1 if one failed
"""

import argparse
import re
import subprocess
import sys

RUN, CLI, SERVING = "tests/flows/test_run.py", "tests/flows/test_cli.py", "tests/pipelines/serving"
INTAKE, STAGES, WORK = "tests/pipelines/intake", "tests/pipelines/stages", "tests/pipelines/work"
ATTACKS = {
    "servers": (
        "another local user, another origin, a run with a command of its own",
        ["tests/security/test_servers.py"],
    ),
    "predict": (
        "a prediction onto or among its scans, over a foreign file, of what is no scan",
        [f"{SERVING}/test_requests.py", f"{SERVING}/test_prediction.py", f"{SERVING}/test_conditions.py"],
    ),
    "names": (
        "names of patients in files, folders and labels of every layout",
        ["tests/pipelines/scans/test_naming.py", "tests/pipelines/dicom/test_run.py"],
    ),
    "audit": (
        "names in every spelling, packing and place",
        ["tests/pipelines/questions/test_phi.py", "tests/pipelines/questions/test_spellings.py"],
    ),
    "held-out": (
        "a lone patient, labels and scans that changed, are missing, too large, or kill their reader",
        [f"{STAGES}/test_held_out.py", f"{STAGES}/test_ingest.py", f"{INTAKE}/test_sufficiency.py"],
    ),
    "tracker": ("an MLflow that is away at the start, for a while, or at the end", ["tests/pipelines/release"]),
    "databases": (
        "databases and caches that are lost, empty, damaged",
        [f"{RUN}::test_a_lost_registry_is_no_reason_to_begin_at_version_1_and_its_copy_brings_all_back",
         f"{WORK}/test_cache.py", "tests/flows/test_dvc.py"],
    ),
    "messages": (
        "full disks, killed workers, damaged files: one line, the rest goes on",
        [f"{WORK}/test_faults.py", f"{WORK}/test_within_memory.py", "tests/flows/test_messages.py",
         "tests/pipelines/scans/test_malformed_nifti.py", "tests/pipelines/pages/test_contact_sheet.py"],
    ),
    "weights": (
        "weights, cards and checkpoints that others wrote",
        ["tests/model/test_weights.py", "tests/model/engine/test_checkpoints.py"],
    ),
    "release": (
        "who may not release: own approval, strangers, lost keys, replays, forged tags and figures, kills between",
        ["tests/security/test_release_attacks.py", "tests/pipelines/release"],
    ),
    "outages": (
        "a Prefect server that dies, a preempted training, a promotion that nobody takes, too little shared memory",
        [f"{RUN}::test_run_outlives_its_server_and_is_not_running_for_ever_in_the_next_ones_pages",
         f"{RUN}::test_a_changed_parameter_reruns_its_stage_and_what_follows_also_if_it_was_preempted",
         "tests/flows/test_promotion.py::test_promotion_that_no_worker_takes_is_cancelled",
         "tests/model/data/test_shared_memory.py"],
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("attacks", nargs="*", choices=[[], *ATTACKS], metavar="NAME", help=", ".join(ATTACKS))
    chosen = parser.parse_args().attacks or list(ATTACKS)
    failed = [name for name in chosen if not held(name)]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} held")
    return 1 if failed else 0


def held(name: str) -> bool:
    """Run the tests behind an attack and tell how it ended."""
    told, tests = ATTACKS[name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    ended = subprocess.run(command, capture_output=True, text=True)
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|errors?|skipped)", ended.stdout.splitlines()[-1]))
    print(f"{'held  ' if not ended.returncode else 'FAILED'}  {name:<10} {told} ({counts})", flush=True)
    if ended.returncode:
        print("\n".join(line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))))
    return not ended.returncode


if __name__ == "__main__":
    sys.exit(main())
