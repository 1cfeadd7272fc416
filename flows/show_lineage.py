"""What a version comes from, and what a patient's scans went into, on a terminal."""

from collections import Counter
from typing import Any

from rich import box
from rich.table import Table

from flows.show import figure, terminal

DIGESTS = ("record_sha256", "weights_sha256", "params_sha256", "manifest_sha256", "test_set_sha256")


def version(told: dict[str, Any]) -> None:
    """Digests, and how many scans of which source; `--json` lists each."""
    for name in ("name", "git_commit", "program", "processor"):
        print(f"{name:<16} {told[name]}")
    print(f"{'authors':<16} {', '.join(told['authors']) or 'unknown'}")
    for name in DIGESTS:
        print(f"{name:<16} {told[name]}")
    for stage, paths in told["lock"].items():
        print(f"{'lock: ' + stage:<16} {len(paths)} inputs and outputs")
    splits = sorted({scan["split"] for scan in told["scans"]})
    table = Table("source", box=box.SIMPLE_HEAD, title="Scans", title_justify="left")
    for split in splits:
        table.add_column(split, justify="right")
    counts = Counter((scan["source"], scan["split"]) for scan in told["scans"])
    for source in sorted({scan["source"] for scan in told["scans"]}):
        table.add_row(source, *(str(counts[source, split]) for split in splits))
    terminal().print(table)
    print("--json lists every scan with the sha256 of its files")


def patient(told: dict[str, Any]) -> None:
    """Line by line, so that no path is cut."""
    for each in told["versions"]:
        cases = ", ".join(f"{case} ({split})" for case, split in each["cases"].items())
        print(f"{', '.join(each['versions']) or 'not registered'}, record {each['record_sha256'][:12]}: {cases}")
        for path in filter(None, (each["report"], *each["predictions"])):
            print(f"  kept     {path}")
    for path in told["files"]:
        print(f"here       {path}")
    for each in told["predictions"]:
        print(f"predicted  {each['time']} by {each['record_sha256'][:12]}, output {', '.join(each['outputs'])}")
    for name, reason in told["not_looked_at"].items():
        print(f"not asked  {name}: {reason}")
    if not (told["versions"] or told["files"] or told["predictions"]):
        print("No version, file or prediction is known of this patient; an id is written as its layout has it.")


def reproduced(told: dict[str, Any]) -> None:
    for path, same in told["outputs"].items():
        print(f"{'same' if same else 'other':<6} {path}")
    for name, (before, now) in told["dice"].items():
        print(f"Dice   {name}: {figure(before)} before, {figure(now)} now")
    processor = "the same processor" if told["same_processor"] else "another processor, so bits may differ"
    print(f"{told['verdict']}, on {processor}; it lies in {told['folder']}")
