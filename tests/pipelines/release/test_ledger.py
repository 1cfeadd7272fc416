"""The ledger: chained, signed, by the rules; and every way around it that we know of."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.release import audit, ledger, signers
from pipelines.release.ledger import LedgerError
from pipelines.release.standings import State
from pipelines.release.statement import Statement
from tests.pipelines.release.people import MODEL, Version, answering, begin, key, public, say, signed

CANDIDATE, CHAMPION = "clinical-candidate", "champion"
A, B = Version(1), Version(2)
LATER = timedelta(days=31)


@pytest.fixture(autouse=True)
def _begun(release_project: Path) -> None:
    begin()


def file_of(number: int) -> Path:
    return Path(f"release/ledger/{MODEL}/{number:06d}.json")


def word(version: Version, now: datetime | None = None) -> str:
    return ledger.read(MODEL).state(version.record_sha256, now).word


def count() -> int:
    return len(ledger.read(MODEL).statements)


class TestPromotion:
    def test_from_candidate_to_champion(self) -> None:
        assert word(A) == "candidate"
        request = A.request()
        assert word(A) == "requested"
        approval = A.answer(request)
        found = ledger.read(MODEL)
        assert found.holder(CANDIDATE) == A.record_sha256
        assert found.holder(CHAMPION) is None
        assert found.state(A.record_sha256) == State(CANDIDATE, CANDIDATE, approval)
        assert approval.by == "bob@hospital.org"
        A.promote(CHAMPION)
        assert word(A) == CHAMPION
        assert ledger.read(MODEL).holder(CHAMPION) == A.record_sha256

    def test_a_successor_supersedes_it(self) -> None:
        A.promote()
        B.promote(CANDIDATE)
        assert (word(A), word(B)) == (CHAMPION, CANDIDATE)
        B.promote(CHAMPION)
        assert (word(A), word(B)) == ("superseded", CHAMPION)

    def test_refused_withdrawn_expired(self) -> None:
        A.answer(A.request(), "refusal")
        assert word(A) == "refused"
        request = A.request()
        say("withdrawal", {**answering(request), "reason": "an error"}, "ann")
        assert word(A) == "withdrawn"
        A.request()
        assert word(A, datetime.now(UTC) + LATER) == "expired"
        assert [each.number for each in ledger.read(MODEL).requests] == [6]

    def test_rollback_to_a_former_champion(self) -> None:
        A.promote()
        B.promote()
        say("rollback", {**A.asks(CHAMPION), "reason": "misses cysts"}, "bob")
        assert (word(A), word(B)) == (CHAMPION, CANDIDATE)

    def test_a_recalled_version_is_out_for_good(self) -> None:
        A.promote()
        B.promote(CANDIDATE)
        say("recall", {**A.asks(CHAMPION), "reason": "misses cysts"}, "bob")
        assert (word(A), word(B)) == ("recalled", CANDIDATE)
        assert ledger.read(MODEL).holder(CHAMPION) is None
        for alias in (CANDIDATE, CHAMPION):
            with pytest.raises(ValueError, match="this version was recalled by statement 8, for good"):
                A.request(alias)
        with pytest.raises(ValueError, match="this version was recalled"):
            say("rollback", {**A.asks(CHAMPION), "reason": "?"}, "bob")

    def test_a_request_for_what_was_recalled_meanwhile_is_gone(self) -> None:
        request = A.request()
        say("recall", {**A.asks(CANDIDATE), "reason": "misses cysts"}, "bob")
        with pytest.raises(ValueError, match=r"no request .* is open"):
            A.answer(request)

    def test_the_signed_plan_is_in_force(self) -> None:
        assert ledger.read(MODEL).plan_sha256 is None
        say("plan", {"plan_sha256": "f" * 64, "text": "margin: 0.03"}, "bob")
        assert ledger.read(MODEL).plan_sha256 == "f" * 64

    def test_it_is_told_in_the_audit_log_and_holds_its_head(self) -> None:
        before = audit.head()
        request = A.request()
        assert request.audit_head == {"lines": before.lines, "sha256": before.sha256, "log": before.log}
        (*_, line) = audit.read(("statement",))
        assert line.facts == {"kind": "request", "name": MODEL, "number": 2, "sha256": request.sha256}
        assert line.previous == before.sha256


class TestRefused:
    """Each leaves nothing behind."""

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, _begun: None) -> object:
        A.request()
        before = sorted(Path("release").rglob("*")), audit.head()
        yield
        assert (sorted(Path("release").rglob("*")), audit.head()) == before
        assert ledger.read(MODEL).holder(CANDIDATE) is None

    @property
    def request(self) -> Statement:
        return ledger.read(MODEL).statements[1]

    def approval(self) -> Statement:
        return ledger.prepare(MODEL, "approval", answering(self.request))

    def test_a_strangers_key(self) -> None:
        with pytest.raises(ValueError, match="by a key that release/allowed_signers does not list"):
            A.answer(self.request, by="eve")

    def test_an_authors_key(self) -> None:
        with pytest.raises(ValueError, match=r"ann@hospital\.org, who is no approver"):
            A.answer(self.request, by="ann")

    def test_an_approvers_key_for_a_request(self) -> None:
        with pytest.raises(ValueError, match=r"bob@hospital\.org, who is no author"):
            B.request(by="bob")

    def test_a_key_added_to_the_file_alone(self) -> None:
        """What nobody signed does not count."""
        signers.add("eve@hospital.org", key("eve").with_suffix(".pub"), "approver")
        try:
            with pytest.raises(ValueError, match="by a key that release/allowed_signers does not list"):
                A.answer(self.request, by="eve")
        finally:
            Path("release/allowed_signers").write_text(ledger.read(MODEL).signers.text)  # type: ignore[union-attr]

    def test_a_signature_of_another_statement(self) -> None:
        draft = self.approval()
        other = signed(replace(draft, content={**draft.content, "version": 2}), "bob")
        with pytest.raises(ValueError, match="is not of this text"):
            ledger.append(draft.signed(other.signature))

    def test_a_replayed_statement(self) -> None:
        with pytest.raises(ValueError, match="changed since it was prepared"):
            ledger.append(self.request)

    def test_a_replayed_signature(self) -> None:
        draft = ledger.prepare(MODEL, "request", {**A.asks(CANDIDATE), "authors": []})
        with pytest.raises(ValueError, match="is not of this text"):
            ledger.append(draft.signed(self.request.signature))

    def test_a_statement_of_another_model(self) -> None:
        other = signed(replace(self.approval(), name="livers"), "bob")
        with pytest.raises(ValueError, match=r"no signers are signed yet|changed since"):
            ledger.append(other)
        with pytest.raises(ValueError, match="is not of this text"):
            ledger.append(replace(other, name=MODEL))

    def test_no_signature(self) -> None:
        with pytest.raises(ValueError, match="no signature as ssh-keygen writes it"):
            ledger.append(self.approval())

    def test_a_kind_in_another_role(self) -> None:
        """An author's signature on an approval that says so itself."""
        with pytest.raises(ValueError, match="there is no statement 'approval' by an 'author'"):
            ledger.append(signed(replace(self.approval(), role="author"), "ann"))
        with pytest.raises(ValueError, match="there is no statement 'coronation' by an 'approver'"):
            ledger.append(signed(replace(self.approval(), kind="coronation"), "bob"))

    def test_another_answer_than_was_asked(self) -> None:
        for name, value in (("version", 2), ("record_sha256", B.record_sha256), ("evidence_sha256", "f" * 64)):
            with pytest.raises(ValueError, match=f"its {name} is not that of request 2"):
                say("approval", {**answering(self.request), name: value}, "bob")
        with pytest.raises(ValueError, match="its content lacks meaning"):
            say("approval", {key: value for key, value in answering(self.request).items() if key != "meaning"}, "bob")

    def test_an_answer_to_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"no request 0000.* is open"):
            say("approval", {**answering(self.request), "request_sha256": "0" * 64}, "bob")

    def test_the_same_request_twice(self) -> None:
        with pytest.raises(ValueError, match="request 2 asks for the same and waits"):
            A.request()

    def test_champion_before_clinical_candidate(self) -> None:
        with pytest.raises(ValueError, match="only the clinical-candidate may become champion"):
            A.request(CHAMPION)

    def test_an_alias_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="alias 'candidate' is none of clinical-candidate, champion"):
            A.request("candidate")

    def test_a_rollback_to_what_never_was_champion(self) -> None:
        for alias in (CANDIDATE, CHAMPION):
            with pytest.raises(ValueError, match="only a former champion"):
                say("rollback", {**A.asks(alias), "reason": "?"}, "bob")

    def test_a_statement_prepared_long_ago(self) -> None:
        old = replace(self.approval(), time=(datetime.now(UTC) - LATER).isoformat(timespec="seconds"))
        with pytest.raises(ValueError, match=r"it was prepared at .*; prepare and sign it anew"):
            ledger.append(signed(old, "bob"))

    def test_a_time_without_its_zone(self) -> None:
        for time in ("2026-11-26T14:00:00", "2026-11-26T14:00:00+02:00", "now"):
            with pytest.raises(ValueError, match="is not in UTC, as in"):
                ledger.append(signed(replace(self.approval(), time=time), "bob"))

    def test_a_withdrawal_of_another_version(self) -> None:
        with pytest.raises(ValueError, match="its record_sha256 is not that of request 2"):
            say("withdrawal", {**answering(self.request), "record_sha256": B.record_sha256}, "ann")

    def test_a_time_before_the_last_statement(self) -> None:
        early = replace(self.approval(), time=(datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds"))
        with pytest.raises(ValueError, match="is before that of the statement before it"):
            ledger.append(signed(early, "bob"))

    def test_signers_that_leave_nobody_to_approve(self) -> None:
        content = {"allowed_signers": f'ann namespaces="medseg-author" {public("ann")}\n', "revoked_keys": ""}
        with pytest.raises(ValueError, match="it leaves no approver"):
            say("signers", content, "bob")

    def test_signers_by_whom_they_add(self) -> None:
        before = ledger.read(MODEL).signers
        assert before is not None
        added = f'{before.text}eve@hospital.org namespaces="medseg-approval" {public("eve")}\n'
        with pytest.raises(ValueError, match="a stranger here"):
            say("signers", {"allowed_signers": added, "revoked_keys": ""}, "eve")


class TestSecondPerson:
    """Whoever made a version does not approve it, with whatever key."""

    def begin_with(self, *lines: str) -> None:
        before = ledger.read(MODEL).signers
        assert before is not None
        say("signers", {"allowed_signers": before.text + "".join(lines), "revoked_keys": ""}, "bob")

    def approver(self, name: str, *names: str) -> str:
        return f'{",".join(names)} namespaces="medseg-approval" {public(name)}\n'

    def require_refused(self, request: Statement, by: str, author: str) -> None:
        for kind in ("approval", "refusal"):
            with pytest.raises(ValueError, match=rf"is an author of it \({author}\); another person has to answer"):
                A.answer(request, kind, by)
        assert ledger.read(MODEL).holder(CANDIDATE) is None

    def test_the_same_key_in_both_roles(self) -> None:
        self.begin_with(self.approver("ann", "ann@hospital.org"))
        self.require_refused(A.request(), "ann", "ann@hospital.org")

    def test_a_second_key_of_the_same_person(self) -> None:
        self.begin_with(self.approver("ann2", "dr.ann@home.net", "Ann@Hospital.org"))
        self.require_refused(A.request(), "ann2", "ann@hospital.org")

    def test_the_commits_author(self) -> None:
        request = Version(1, ("ann@hospital.org", "Bob@home.net")).request()
        self.require_refused(request, "bob", "Bob@home.net")

    def test_the_same_key_under_another_name(self) -> None:
        with pytest.raises(ValueError, match="have the same key"):
            self.begin_with(self.approver("ann", "ann.smith@hospital.org"))

    def test_another_author_withdraws_nothing(self) -> None:
        self.begin_with(f'dan@hospital.org namespaces="medseg-author" {public("dan")}\n')
        request = A.request()
        with pytest.raises(ValueError, match=r"request 3 is ann@hospital\.org's, who alone may withdraw it"):
            say("withdrawal", answering(request), "dan")

    def test_another_approver_may(self) -> None:
        self.begin_with(self.approver("cho", "cho@hospital.org"))
        A.answer(Version(1, ("bob@hospital.org",)).request(), by="cho")
        assert word(A) == CANDIDATE


class TestAtOnce:
    def test_a_statement_that_was_overtaken(self) -> None:
        draft = ledger.prepare(MODEL, "request", {**B.asks(CANDIDATE), "authors": []})
        A.request()
        with pytest.raises(ValueError, match="the ledger changed since it was prepared; prepare and sign it anew"):
            ledger.append(signed(draft, "ann"))

    def test_of_two_signed_at_once_one_is_taken(self) -> None:
        drafts = [
            signed(ledger.prepare(MODEL, "request", {**each.asks(CANDIDATE), "authors": []}), "ann") for each in (A, B)
        ]

        def try_it(draft: Statement) -> str:
            try:
                return str(ledger.append(draft).number)
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            taken, refused = sorted(pool.map(try_it, drafts))
        assert taken == "2"
        assert "changed since it was prepared" in refused
        assert audit.verify().ok

    def test_what_is_being_written_is_no_statement_yet(self) -> None:
        (file_of(1).parent / ".1-00000000.partial.000002.json").write_text("{")
        assert count() == 1
        assert audit.verify().ok

    def test_what_a_kill_kept_from_the_log_is_told_by_the_next_statement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as killed:
            killed.setattr(audit, "append", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                A.request()
        assert count() == 2
        B.request()
        assert [line.facts["number"] for line in audit.read(("statement",))] == [1, 2, 3]
        assert audit.verify().ok

    def test_what_another_machine_published_is_kept_here_with_the_next_statement(self) -> None:
        A.promote(CANDIDATE)
        asked = A.asks(CHAMPION)
        published = {each.number: each.text for each in ledger.read(MODEL).statements}
        for number in published:
            file_of(number).unlink()
        content = {**asked, "authors": []}
        draft = ledger.prepare(MODEL, "request", content, published)
        ledger.append(signed(draft, "ann"), published)
        assert [number for number in range(1, 9) if file_of(number).is_file()] == [1, 2, 3, 4]
        assert audit.verify().ok

    def test_a_recall_is_possible_whatever_became_of_the_log(self) -> None:
        A.promote()
        audit.path().write_bytes(audit.path().read_bytes().replace(b'"number":2', b'"number":7', 1))
        say("recall", {**A.asks(CHAMPION), "reason": "misses cysts"}, "bob")
        assert word(A) == "recalled"

    def test_two_requests_for_one_alias(self) -> None:
        """The second is compared with who holds it by then, so it has to be asked anew."""
        first, second = A.request(), B.request()
        A.answer(first)
        with pytest.raises(ValueError, match="clinical-candidate is held by another version than when it was prepared"):
            B.answer(second)
        assert ledger.read(MODEL).holder(CANDIDATE) == A.record_sha256

    def test_a_request_that_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        request = A.request()
        answer = replace(
            ledger.prepare(MODEL, "approval", answering(request)),
            time=(datetime.now(UTC) + LATER).isoformat(timespec="seconds"),
        )
        monkeypatch.setattr(ledger, "KEEPS", 2 * LATER)
        with pytest.raises(ValueError, match="request 2 is older than 30 days; ask anew"):
            ledger.append(signed(answer, "bob"))


class TestSignersChange:
    def test_a_key_revoked_later_leaves_what_it_signed(self) -> None:
        A.promote(CANDIDATE)
        signers.add("cho@hospital.org", key("cho").with_suffix(".pub"), "approver")
        say("signers", signers.read().to_json(), "bob")
        signers.revoke("bob@home.net", key("bob").with_suffix(".pub"))
        say("signers", signers.read().to_json(), "cho")
        assert word(A) == CANDIDATE
        with pytest.raises(ValueError, match=r"by bob@hospital\.org with a key that is revoked"):
            A.answer(A.request(CHAMPION))

    def test_what_was_prepared_under_other_signers_is_prepared_anew(self) -> None:
        draft = ledger.prepare(MODEL, "request", {**A.asks(CANDIDATE), "authors": []})
        with pytest.raises(ValueError, match="it is of other signers than those in force"):
            ledger.append(signed(replace(draft, signers_sha256="0" * 64), "ann"))

    def test_nothing_is_said_before_there_are_signers(self) -> None:
        with pytest.raises(ValueError, match="no signers are signed yet; `medseg signers sign --key KEY` begins"):
            say("recall", {**A.asks(CHAMPION, "livers"), "reason": "?"}, "bob", "livers")


class TestAltered:
    """What does not hold is named, wherever it is altered."""

    @pytest.fixture(autouse=True)
    def _promoted(self, _begun: None) -> None:
        A.promote()

    @pytest.mark.parametrize("number", range(1, 6))
    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace('"version":1', '"version":2').replace("revoked_keys", "revoked_keyz"),
            lambda text: text.replace("@hospital.org", "@hospital.net", 1),
            lambda text: text.replace(text[text.index("SIGNATURE-----") + 40], "A", 1),
            lambda text: text.replace('"time":"2', '"time":"1'),
            lambda text: text.replace('","', '", "', 1),
            lambda text: text.replace("\n", "\r\n"),
            lambda text: text + "\n",
            lambda text: text[:-1],
            lambda text: json.dumps({**json.loads(text), "by": ""}, sort_keys=True, separators=(",", ":")) + "\n",
            lambda text: "",
        ],
    )
    def test_any_statement(self, number: int, change: Callable[[str], str]) -> None:
        text = file_of(number).read_text()
        file_of(number).write_bytes(change(text).encode())
        with pytest.raises(LedgerError, match=rf"statement ({number}|{number + 1}) of kidneys"):
            ledger.read(MODEL)

    def test_a_statement_that_is_missing(self) -> None:
        file_of(3).unlink()
        with pytest.raises(
            LedgerError, match=r"statement 3 of kidneys \(release/ledger/kidneys/000003.json\) is missing"
        ):
            ledger.read(MODEL)

    def test_statements_that_changed_places(self) -> None:
        third = file_of(3).read_text()
        file_of(3).write_text(file_of(4).read_text())
        file_of(4).write_text(third)
        with pytest.raises(LedgerError, match="statement 3 of kidneys"):
            ledger.read(MODEL)

    def test_a_file_that_is_none_of_them(self) -> None:
        (file_of(1).parent / "6.json").write_text("{}")
        with pytest.raises(LedgerError, match=r"6\.json is no file of a ledger"):
            ledger.read(MODEL)

    def test_the_ledger_of_another_model_in_its_place(self) -> None:
        Path("release/ledger/livers").symlink_to(MODEL)
        with pytest.raises(LedgerError, match="it is of model 'kidneys', not of 'livers'"):
            ledger.read("livers")

    def test_a_name_that_leads_elsewhere(self) -> None:
        for name in ("..", "../kidneys", "", "a/b", ".hidden"):
            with pytest.raises(ValueError, match="is no name of a registered model"):
                ledger.read(name)

    def test_published_statements_stand_in_for_files_that_are_gone(self) -> None:
        published = {each.number: each.text for each in ledger.read(MODEL).statements}
        for number in (2, 5):
            file_of(number).unlink()
        with pytest.raises(LedgerError):
            ledger.read(MODEL)
        assert ledger.read(MODEL, published).holder(CHAMPION) == A.record_sha256

    def test_a_ledger_cut_short_is_found_by_what_is_published(self) -> None:
        """Somebody takes the recall back by deleting it."""
        say("recall", {**A.asks(CHAMPION), "reason": "misses cysts"}, "bob")
        published = {each.number: each.text for each in ledger.read(MODEL).statements}
        file_of(6).unlink()
        assert ledger.read(MODEL, published).state(A.record_sha256).word == "recalled"
        assert ledger.read(MODEL).state(A.record_sha256).word == CHAMPION
        assert not audit.verify().ok

    def test_a_file_that_differs_from_what_is_published_is_named(self) -> None:
        published = {4: ledger.read(MODEL).statements[3].text.replace('"version":1', '"version":2')}
        with pytest.raises(LedgerError, match=r"000004\.json\) is not what MLflow has of it"):
            ledger.read(MODEL, published)
