"""What the report says in words, and which cases it shows first."""

from pipelines.evaluation import evaluation_folder, telling
from pipelines.scans import vocabulary
from tests.pipelines.evaluation.made import NOTHING, cohort, scored

WORDS = vocabulary.default()


def told(scores: list) -> list[str]:
    return list(evaluation_folder.summarised(scores, WORDS, {"left_out": {"x": "no label"}}, None)["told"])


def test_misses_are_said_in_words() -> None:
    first, kidney = told([*cohort(29), scored("m", 0.0), scored("n", NOTHING)])
    assert first == "31 held-out scans of 31 patients were measured; 1 could not be and are listed below."
    assert kidney.startswith("Kidney: Dice 0.812 (95 % interval 0.")
    assert kidney.endswith("within 3 mm; missed in 1 of 30 scans that have it.")


def test_of_many_structures_the_weakest_are_told_first_and_the_rest_in_one_sentence() -> None:
    names = ("liver", "spleen", "pancreas", "aorta", "stomach", "duodenum", "urinary_bladder")
    sentences = told([scored("a", 0.9 - 0.1 * k, name) for k, name in enumerate(names)])
    assert [sentence.split(":")[0] for sentence in sentences[1:]] == [
        "Urinary bladder", "Duodenum", "Stomach", "Aorta", "The other 3 structures",
    ]  # fmt: skip
    assert sentences[-1] == "The other 3 structures: Dice 0.700 to 0.900, missed 0 times in all."


def test_the_worst_cases_are_shown_first_with_the_median_and_the_best_among_them() -> None:
    scores = [*cohort(50), scored("nobody", NOTHING)]
    chosen = telling.interesting(scores, most=5)
    assert chosen == ["case-00", "case-01", "case-02", "case-25", "case-49"]
    assert telling.interesting([scored("nobody", NOTHING)]) == []
