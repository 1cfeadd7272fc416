"""How often a test set was looked at: every evaluation and comparison on it wears it out, as choices follow from it."""

from pipelines.release import audit

EVENTS = ("evaluate", "compare")


def count(test_set_sha256: str) -> int:
    """Looks at this set - these scans with these labels - in this project so far."""
    return sum(line.facts.get("test_set_sha256") == test_set_sha256 for line in audit.read(EVENTS))
