"""The statements by which people release: what each says, prepared for a signature.

    request       the author asks for an alias, on evidence
    approval      an approver, who is nobody of its authors, grants it; or refuses it: refusal
    withdrawal    the author takes the request back
    rollback      an approver gives the alias back to a former champion
    recall        an approver says that a version must not be used any more

What may follow what, and who may sign, pipelines/release/standings.py says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.release import ledger, registry, signatures
from pipelines.release.registry import RegisteredModel
from pipelines.release.standings import is_expired
from pipelines.release.statement import APPROVAL, NEEDED, RECALL, REFUSAL, REQUEST, ROLLBACK, WITHDRAWAL, Statement

SHORTEST, LONGEST = 10, 2000  # letters of a meaning or a reason
