"""Who may sign: the two files, whose key is whose, and what ssh-keygen says of a signature."""

import fcntl
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipelines.release import signatures, signers
from pipelines.release.signers import Signers
from tests.conftest import REPOSITORY
from tests.pipelines.release import people
from tests.pipelines.release.people import key, public

pytestmark = pytest.mark.usefixtures("release_project")


def typed_at_a_terminal(program: str, answer: str) -> str:
    """What a Python program says that has a terminal of its own, where the answer is typed once it asks."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=its, stdout=its, stderr=its, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    os.close(its)
    told = ""
    try:
        while ":" not in told:
            told += os.read(ours, 1024).decode()
        os.write(ours, answer.encode())
        assert process.wait(60) == 0, told + os.read(ours, 10_000).decode()
    finally:
        process.kill()
        os.close(ours)
    return told


def allowed(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def of(name: str, *names: str, role: str = "author") -> str:
    return f'{",".join(names or (name,))} namespaces="{signers.NAMESPACES[role]}" {public(name)} a remark'


def test_a_project_without_signers_says_how_to_make_them() -> None:
    with pytest.raises(
        ValueError, match="release/allowed_signers: no such file, so nobody may sign; `medseg signers add"
    ):
        signers.read()


def test_keys_are_added_with_a_role_and_revoked() -> None:
    people.begin()
    found = signers.read()
    assert [(line.names, line.roles) for line in found.lines] == [
        (("ann@hospital.org",), ("author",)),
        (("bob@hospital.org", "bob@home.net"), ("approver",)),
    ]
    assert [line.names[0] for line in found.with_role("approver")] == ["bob@hospital.org"]
    with pytest.raises(ValueError, match=r"bob\.pub is no key of ann@hospital\.org"):
        signers.revoke("ann@hospital.org", key("bob").with_suffix(".pub"))
    signers.revoke("BOB@home.net", key("bob").with_suffix(".pub"))
    assert signers.read().with_role("approver") == ()


def test_a_private_key_or_anything_else_is_not_added() -> None:
    Path("note.txt").write_text("hello")
    for file in (key("ann"), Path("note.txt")):
        with pytest.raises(ValueError, match="is no public key"):
            signers.add("ann@hospital.org", file, "author")
        with pytest.raises(ValueError, match="is no public key"):
            signers.revoke("ann@hospital.org", file)
    assert not Path("release").exists()


def test_comments_validity_and_both_roles_are_read() -> None:
    both = 'zoe@hospital.org namespaces="medseg-author,medseg-approval",valid-after="20250101" '
    (line,) = Signers(f"# who may sign\n\n{both}{public('zoe')}\n").lines
    assert line.roles == ("author", "approver")


@pytest.mark.parametrize(
    "line",
    [
        "ann@hospital.org KEY",  # of any namespace
        'ann@hospital.org namespaces="git" KEY',
        '*@hospital.org namespaces="medseg-author" KEY',
        '!ann@hospital.org,x namespaces="medseg-author" KEY',
        '"ann smith" namespaces="medseg-author" KEY',
        'ann@hospital.org cert-authority,namespaces="medseg-author" KEY',
        'ann@hospital.org namespaces="medseg-author"',
        'ann@hospital.org namespaces="medseg-author" ssh-ed25519',
        "ann@hospital.org",
    ],
)
def test_a_line_that_leaves_open_who_signs_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(ValueError, match="release/allowed_signers: line 2 must read"):
        Signers(f"# comment\n{line.replace('KEY', public('ann'))}\n")


def test_lines_that_share_a_name_are_one_person() -> None:
    found = Signers(
        allowed(
            of("bob", "bob@hospital.org", "b.smith@hospital.org", role="approver"),
            of("bob2", "bob@home.net", "B.Smith@hospital.org"),
            of("bob3", "bob@home.net", "smith@lab.org"),
            of("ann", "ann@hospital.org"),
        )
    )
    assert found.same_person("bob@hospital.org", "smith@lab.org")
    assert found.same_person("BOB@hospital.org", "bob@HOME.net")
    assert found.same_person("somebody@else.org", "Somebody@else.org")
    assert not found.same_person("ann@hospital.org", "bob@hospital.org")
    assert not found.same_person("somebody@else.org", "ann@hospital.org")


def test_a_key_of_two_people_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ann@hospital\.org and bob@hospital\.org have the same key"):
        Signers(allowed(of("ann", "ann@hospital.org"), of("ann", "bob@hospital.org", role="approver")))
    assert (
        len(Signers(allowed(of("ann", "ann@hospital.org"), of("ann", "ann@hospital.org", role="approver"))).lines) == 2
    )


class TestSignatures:
    SIGNERS = Signers(
        allowed(of("ann", "ann@hospital.org"), of("bob", "bob@hospital.org", role="approver")), f"{public('old')}\n"
    )

    def test_says_who_signed(self) -> None:
        for name, role in (("ann", "author"), ("bob", "approver")):
            signature = signatures.sign("text", key(name), role)
            assert signatures.verify("text", signature, role, self.SIGNERS) == f"{name}@hospital.org"

    def test_a_key_with_both_roles_signs_as_both(self) -> None:
        both = Signers(allowed(of("ann"), of("ann", role="approver")))
        for role in ("author", "approver"):
            assert signatures.verify("text", signatures.sign("text", key("ann"), role), role, both) == "ann"

    def test_another_text_is_not_signed(self) -> None:
        signature = signatures.sign("text", key("ann"), "author")
        with pytest.raises(ValueError, match=r"by ann@hospital\.org as author is not of this text"):
            signatures.verify("texts", signature, "author", self.SIGNERS)

    def test_a_stranger_is_told_so(self) -> None:
        with pytest.raises(ValueError, match="a stranger here"):
            signatures.verify("text", signatures.sign("text", key("eve"), "author"), "author", self.SIGNERS)

    def test_a_revoked_key_counts_no_more(self) -> None:
        revoked = Signers(self.SIGNERS.text, f"# left in May\n{public('ann')} ann\n")
        with pytest.raises(ValueError, match=r"by ann@hospital\.org with a key that is revoked"):
            signatures.verify("text", signatures.sign("text", key("ann"), "author"), "author", revoked)

    def test_an_author_does_not_approve(self) -> None:
        """Neither by saying so, nor with the signature that she gave as an author."""
        for signed_as in ("author", "approver"):
            signature = signatures.sign("text", key("ann"), signed_as)
            with pytest.raises(ValueError, match=r"by ann@hospital\.org, who is no approver"):
                signatures.verify("text", signature, "approver", self.SIGNERS)

    def test_what_is_signed_as_author_is_no_approval_of_who_is_both(self) -> None:
        both = Signers(allowed(of("ann"), of("ann", role="approver")))
        with pytest.raises(ValueError, match="as approver is not of this text"):
            signatures.verify("text", signatures.sign("text", key("ann"), "author"), "approver", both)

    def test_a_key_is_valid_when_its_line_says(self) -> None:
        line = f'ann namespaces="medseg-author",valid-after="20250101",valid-before="20260101" {public("ann")}\n'
        signature = signatures.sign("text", key("ann"), "author")
        assert signatures.verify("text", signature, "author", Signers(line), "2025-06-01T00:00:00+00:00") == "ann"
        for at in ("2024-12-31T23:59:00+00:00", "2026-01-01T00:01:00+00:00", None):
            with pytest.raises(ValueError, match="its key was not valid then"):
                signatures.verify("text", signature, "author", Signers(line), at)

    @pytest.mark.parametrize("place", [30, 60, 200, 290])
    def test_a_changed_character_is_found(self, place: int) -> None:
        signature = signatures.sign("text", key("ann"), "author")
        changed = signature[:place] + ("A" if signature[place] != "A" else "B") + signature[place + 1 :]
        with pytest.raises(ValueError, match="signature"):
            signatures.verify("text", changed, "author", self.SIGNERS)

    @pytest.mark.parametrize("change", [str.strip, lambda text: text.replace("\n", "\r\n"), lambda text: f"{text}\n"])
    def test_one_signature_is_written_in_one_way(self, change: object) -> None:
        assert callable(change)
        with pytest.raises(ValueError, match="no signature as ssh-keygen writes it"):
            signatures.verify("text", change(signatures.sign("text", key("ann"), "author")), "author", self.SIGNERS)

    def test_no_signature_at_all_is_refused(self) -> None:
        for text in ("", "approved", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"):
            with pytest.raises(ValueError, match="no signature as ssh-keygen writes it"):
                signatures.verify("text", text, "author", self.SIGNERS)

    def test_a_key_that_is_none_does_not_sign(self) -> None:
        with pytest.raises(ValueError, match="nowhere did not sign"):
            signatures.sign("text", Path("nowhere"), "author")

    def test_a_passphrase_is_asked_for_at_the_terminal(self, tmp_path: Path) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", tmp_path / "locked"]
        subprocess.run(command, check=True)
        told = typed_at_a_terminal(
            "from pathlib import Path; from pipelines.release import signatures;"
            "Path('signature').write_text(signatures.sign('text', Path('locked'), 'author'))",
            "open sesame\n",
        )
        assert "Enter passphrase" in told
        who = Signers(f'zoe namespaces="medseg-author" {(tmp_path / "locked.pub").read_text()}')
        assert signatures.verify("text", (tmp_path / "signature").read_text(), "author", who) == "zoe"

    def test_a_key_in_an_agent_signs(self, agent: None) -> None:
        signature = signatures.sign("text", key("ann").with_suffix(".pub"), "author")
        assert signatures.verify("text", signature, "author", self.SIGNERS) == "ann@hospital.org"
