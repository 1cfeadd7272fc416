"""What counts as a new training scan."""

from dataclasses import replace

from pipelines.release.growth import Growth, count_new
from pipelines.scans.manifest import TEST, TRAIN, File, Row


def scan(name: str, label: str = "drawn once") -> Row:
    files = [File("T1", f"data/raw/{name}", sha256=name), File("label", f"data/raw/{name}-label", sha256=label)]
    return Row(name, name, "msd", TRAIN, ["T1"], files, ["hippocampus"])


KNOWN = [scan("a"), scan("b")]


def test_only_labelled_usable_training_scans_count() -> None:
    unlabelled = replace(scan("c"), files=scan("c").images)
    others = [replace(scan("d"), split=TEST), replace(scan("e"), quarantined="no voxel"), unlabelled]
    assert count_new([*KNOWN, *others], KNOWN) == 0
    assert count_new([*KNOWN, scan("f")], KNOWN) == 1
    assert count_new(KNOWN, []) == 2


def test_a_scan_that_moved_is_no_new_one_and_a_label_drawn_anew_is() -> None:
    moved = replace(scan("a"), case_id="z", files=[replace(file, path="elsewhere") for file in scan("a").files])
    assert count_new([moved], KNOWN) == 0
    assert count_new([scan("a", label="drawn again")], KNOWN) == 1


def test_it_is_told_since_when() -> None:
    assert Growth(3, "7").told == "3 new training scans since version 7"
    assert Growth(3, "").told == "3 new training scans and no version yet"
