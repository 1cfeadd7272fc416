"""Anybody's label maps: matched by name, measured, and what cannot be is listed and never dropped."""

import json
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.evaluation import folders, given_folders, given_labels
from pipelines.scans.structure import IGNORED

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def write(path: Path, label: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), path)


def cube(at: int = 4, value: int = 1) -> np.ndarray:
    label = np.zeros((16, 16, 12), np.uint8)
    label[at : at + 6, 4:10, 3:9] = value
    return label


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Four references and what somebody predicted of them, one of it perfect."""
    for name in ("Smith_John", "b", "c", "d"):
        write(tmp_path / "references" / f"{name}.nii.gz", cube())
    write(tmp_path / "predictions/Smith_John.nii.gz", cube())
    write(tmp_path / "predictions/b.nii.gz", cube(5))
    write(tmp_path / "predictions/c.nii.gz", cube(), np.diag([1.0, 1.0, 3.0, 1.0]))
    return tmp_path / "predictions", tmp_path / "references"


def test_what_cannot_be_measured_is_listed_with_its_reason(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write(tmp_path / "predictions/d.nii.gz", cube(value=9))
    write(tmp_path / "references/e.nii.gz", cube())
    found = given_folders.evaluate_folders(*pair, tmp_path / "out", ["1=liver"])
    assert found["left_out"].keys() == {"case-0003", "case-0004", "case-0005"}
    assert "affine differs" in found["left_out"]["case-0003"]
    assert "prediction: label value 9 is none of 0, 1" in found["left_out"]["case-0004"]
    assert found["left_out"]["case-0005"] == "it has no prediction"
    liver = found["structures"]["liver"]
    assert (liver["dice"]["n"], liver["dice"]["mean"]) == (2, pytest.approx((1 + 5 / 6) / 2))
    assert liver["tolerance_mm"] == 3
    page = (tmp_path / "out/index.html").read_text()
    assert all(reason.split(";")[0][:20] in page for reason in found["left_out"].values())


def test_names_of_files_stay_with_their_owner(pair: tuple[Path, Path], tmp_path: Path) -> None:
    given_folders.evaluate_folders(*pair, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert (b"Smith" in path.read_bytes()) is (path.name == "names.csv"), path
    assert stat.S_IMODE((tmp_path / "out/names.csv").stat().st_mode) == 0o600
    assert "case-0001,Smith_John" in (tmp_path / "out/names.csv").read_text()


def test_a_table_tells_patients_and_groups(pair: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,patient,scanner\nSmith_John,one,GE\nb,one,Siemens\n")
    found = given_folders.evaluate_folders(*pair, tmp_path / "out", ["1=liver"], table)
    assert found["patients"] == 1
    assert list(found["groups"]["scanner"]) == ["GE", "Siemens"]
    table.write_text("case,age\nb,50\n")
    with pytest.raises(ValueError, match="has the columns case, age; known: case, patient"):
        given_folders.evaluate_folders(*pair, tmp_path / "out", ["1=liver"], table)


def test_nnunet_reads_its_own_figures_in_ours(pair: tuple[Path, Path], tmp_path: Path) -> None:
    labels = {"background": 0, "organ": [1, 2], "tumour": 2}
    (pair[0] / "dataset.json").write_text(json.dumps({"labels": labels}))
    given_folders.evaluate_folders(*pair, tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary.keys() == {"foreground_mean", "mean", "metric_per_case"}
    assert summary["mean"].keys() == {"1", "2", "(1, 2)"}
    whole = summary["mean"]["(1, 2)"]
    assert whole["Dice"] == pytest.approx((1 + 5 / 6) / 2)
    assert whole["IoU"] == pytest.approx((1 + 5 / 7) / 2)
    assert (whole["n_ref"], whole["TP"] + whole["FN"]) == (216, 216)
    assert whole["TP"] + whole["FP"] + whole["FN"] + whole["TN"] == 16 * 16 * 12
    assert np.isnan(summary["mean"]["2"]["Dice"])


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (["kidney"], "'kidney' is no VALUE=NAME"),
        (["99999=kidney"], "label value 99999 is outside"),
    ],
)
def test_labels_that_say_nothing_are_refused(
    labels: list[str], error: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=error):
        given_folders.evaluate_folders(*pair, tmp_path / "out", labels)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(ValueError, match="exists and is no evaluation"):
        given_folders.evaluate_folders(*pair, tmp_path / "out")
    assert (tmp_path / "out/thesis.tex").is_file()


def test_folders_without_a_name_in_common_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "references/a.nii.gz", cube())
    write(tmp_path / "predictions/b.nii.gz", cube())
    with pytest.raises(ValueError, match="predictions bear their names"):
        folders.measure_all(tmp_path / "predictions", tmp_path / "references", [], None, None, 1 << 30)


def test_a_name_that_the_vocabulary_knows_brings_its_codes_and_any_other_is_a_structure_too() -> None:
    found = given_labels.of_dataset({"labels": {"background": 0, "Left Kidney": 3, "My Thing!": 4, "ignore": 5}})
    assert found.annotated == ("left_kidney", "my_thing")  # as the file calls it
    assert (found.words["left_kidney"].id, found.words["left_kidney"].laterality) == (3, "left")
    np.testing.assert_array_equal(found.of_file(np.array([0.0, 3.0, 5.0])), [0, 3, IGNORED])
    with pytest.raises(ValueError, match="no label map"):
        found.of_file(np.array([0.5]))


def test_labels_of_msd_and_of_nobody_are_read_too() -> None:
    msd = given_labels.of_dataset({"labels": {"0": "background", "1": "Anterior", "2": "liver"}})
    assert {name: msd.words[name].id for name in msd.annotated} == {"anterior": 1, "liver": 2}
    assert given_labels.of_values([2, 0, 7]).annotated == ("label_2", "label_7")
