"""serve.yaml and tokens: what is wrong is told by key, value, bound and remedy; no secret is kept."""

from pathlib import Path

import pytest

from pipelines.service import serve_settings
from pipelines.service.serve_settings import KINDS, ServeSettings
from pipelines.service.tokens import Tokens
from pipelines.serving import answering


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "serve.yaml"


def test_what_is_shown_is_what_holds_without_a_file(file: Path) -> None:
    assert serve_settings.load() == ServeSettings()
    file.write_text(serve_settings.explained())
    assert serve_settings.load() == ServeSettings()
    for key in ServeSettings.model_fields:
        assert f"{key}:" in serve_settings.explained()


def test_the_kinds_are_those_of_predict() -> None:
    assert set(KINDS) == set(answering.KINDS)


def test_peers_are_read_and_the_command_line_counts_more(file: Path) -> None:
    file.write_text(
        "port: 9000\nmodel: models:/m/1\ndestinations: {pacs: {dicomweb: 'https://p/dicom-web'}}\n"
        "dimse: {callers: [CT1], deliver: pacs}\nwatch: {inbox: in, outbox: out}\n"
    )
    found = serve_settings.load({"port": 1234, "model": None})
    assert (found.port, found.model, list(found.destinations)) == (1234, "models:/m/1", ["pacs"])
    assert ServeSettings.model_validate_json(found.model_dump_json()) == found  # as workers are told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 1", r"serve.yaml: unknown key prot = 1; did you mean 'port'\?; remove or rename it"),
        ("port: 70000", "serve.yaml: port = 70000: must be less than or equal to 65535; set it within that bound"),
        ("limits: {queue: 0}", "serve.yaml: limits.queue = 0: must be greater"),
        ("watch: {inbox: in}", "serve.yaml: watch.outbox is missing; add it"),
        ("dimse: {callers: [A], deliver: x}", "dimse.deliver = 'x' is none of `destinations`"),
        ("watch: {inbox: a, outbox: b, to: [nifty]}", "did you mean 'nifti'"),
        ("- a", "must hold a mapping"),
        ("a: [", "serve.yaml: not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=told) as error:
        serve_settings.load()
    assert "\n" not in str(error.value)


def test_tokens(tmp_path: Path) -> None:
    tokens, running = Tokens(tmp_path / "tokens.json"), Tokens(tmp_path / "tokens.json")
    assert running.caller("anything") is None
    first, second = tokens.add("ward-3"), tokens.add("lab", limit=2)
    found = running.caller(second)
    assert found is not None
    assert (found.name, found.limit) == ("lab", 2)
    assert running.caller(first[:-1]) is None
    kept = (tmp_path / "tokens.json").read_text()
    assert not any(token in kept for token in (first, second))
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    tokens.remove("lab")
    assert running.caller(second) is None
    for wrong, told in (("ward-3", "exists"), ("dimse", "must be"), ("../x", "must be"), ("", "must be")):
        with pytest.raises(ValueError, match=told):
            tokens.add(wrong)
    with pytest.raises(ValueError, match="no token is named 'lab'"):
        tokens.remove("lab")
