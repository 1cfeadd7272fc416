"""The shared installation as files: what they must all agree on. Their schemas: `make check`."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.server import RETENTION
from tests.conftest import REPOSITORY
from tests.docker.rehearsal import DOCKER, compose

WATCHING, KUBERNETES = DOCKER / "watching", DOCKER / "kubernetes"
NEEDS_NO_HEALTH = {"buckets", "worker", "prefect-services", "serve", "exporter", "prometheus", "grafana"}


def variables(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def manifests() -> list[dict[str, Any]]:
    files = (path for path in sorted(KUBERNETES.glob("*.yaml")) if path.name != "kustomization.yaml")
    return [each for path in files for each in yaml.safe_load_all(path.read_text())]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "secrets"
    subprocess.run([DOCKER / "make-secrets"], env={**os.environ, "SECRETS": str(folder)}, check=True)
    return folder


def test_every_secret_that_a_service_reads_is_given_to_it_and_made_by_the_script(secrets: Path) -> None:
    for name in ("compose.yaml", "compose.sso.yaml"):
        content = compose(name)
        assert {Path(each["file"]).name for each in content["secrets"].values()} <= {
            path.name for path in secrets.iterdir()
        }
        for service in content["services"].values():
            read = {Path(value).name for value in variables(service).values() if value.startswith("/run/secrets/")}
            text = json.dumps(service.get("command", "")) + json.dumps(service.get("healthcheck", ""))
            read |= set(re.findall(r"/run/secrets/([a-z0-9_.]+)", text))
            assert read <= set(service.get("secrets", [])) <= set(content["secrets"]), service["image"]


def test_secrets_are_random_closed_to_others_and_made_once(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    said = {**os.environ, "SECRETS": str(secrets)}
    printed = subprocess.run(
        [DOCKER / "make-secrets", "--kubernetes"], env=said, check=True, capture_output=True, text=True
    )
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    passwords = [text for name, text in before.items() if name.endswith("password")]
    assert len(set(passwords)) == len(passwords) >= 6
    assert min(map(len, passwords)) == 40
    assert set(yaml.safe_load(printed.stdout)["data"]) == set(before)
    json.loads(before["s3.json"])


def test_no_service_has_a_password_of_its_own() -> None:
    for name in ("compose.yaml", "compose.sso.yaml"):
        for service in compose(name)["services"].values():
            for variable, value in variables(service).items():
                if re.search("PASSWORD|SECRET|_KEY|AUTH_STRING", variable) and "COOKIE_SECURE" not in variable:
                    assert value.startswith("/run/secrets/"), variable


def test_only_the_proxy_is_reached_from_outside_and_pages_of_figures_from_this_machine() -> None:
    services = compose()["services"]
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert set(published) == {"proxy", "grafana"}
    assert all(port.startswith("127.0.0.1:") for port in published["grafana"])
    assert compose()["networks"]["inside"]["internal"] is True
    assert {name for name, each in services.items() if "outside" in each["networks"]} == {"proxy", "grafana"}


def test_services_have_a_version_and_a_health_and_may_do_little() -> None:
    for name, service in compose()["services"].items():
        image = re.sub(r"\$\{SITE_VERSION:-(.*?)}", r"\1", service["image"])
        assert re.search(r":v?[0-9]", image), image
        assert name in NEEDS_NO_HEALTH or "healthcheck" in service, name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_images_run_as_nobody_in_particular_and_are_made_from_a_lock() -> None:
    for path in DOCKER.glob("*.Dockerfile"):
        text = path.read_text()
        assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"], path.name
        assert "--require-hashes" in text, path.name
        assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"], path.name
    assert (REPOSITORY / ".dockerignore").read_text().splitlines()[1] == "*"  # what is not named does not come along


def test_retention_is_the_same_everywhere() -> None:
    here = variables(compose()["services"]["prefect-services"])
    (services,) = (each for each in manifests() if each["metadata"]["name"] == "prefect-services")
    there = {each["name"]: each["value"] for each in services["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert RETENTION.items() <= here.items()
    assert RETENTION.items() <= there.items()


def test_pods_may_do_little_and_get_secrets_that_are_made(secrets: Path) -> None:
    made = {path.name for path in secrets.iterdir()}
    for each in manifests():
        spec = each.get("spec", {})
        pod = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec")
        if pod is None:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        given = {item["key"] for volume in pod["volumes"] if "secret" in volume for item in volume["secret"]["items"]}
        assert given <= made
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            read = {
                Path(entry["value"]).name for entry in container.get("env", []) if "/run/secrets/" in entry["value"]
            }
            assert read <= given, each["metadata"]["name"]


def test_rules_and_the_page_ask_for_figures_that_there_are() -> None:
    told = (REPOSITORY / "flows/metrics.py").read_text()
    service = REPOSITORY / "pipelines/service/metrics.py"
    told += service.read_text() if service.is_file() else "medseg_jobs medseg_not_deliverable"
    asked = (WATCHING / "rules.yaml").read_text() + (WATCHING / "grafana/dashboards/medseg.json").read_text()
    names = {name.removesuffix("_total") for name in re.findall(r"medseg_[a-z_]+", asked)}
    assert {name for name in names if name not in told} == set()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
def test_rules_fire_when_they_should() -> None:
    subprocess.run(["promtool", "test", "rules", WATCHING / "rules_test.yaml"], check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("caddy"), reason="caddy is not installed (Debian: caddy)")
def test_the_proxy_takes_its_file_with_and_without_single_sign_on(tmp_path: Path) -> None:
    text = (DOCKER / "Caddyfile").read_text()
    assert "/etc/caddy/sso*.caddy" in text
    for name, imported in (("without", tmp_path / "none*.caddy"), ("with", DOCKER / "sso.caddy")):
        (tmp_path / name).write_text(text.replace("/etc/caddy/sso*.caddy", str(imported)))
        command = ["caddy", "validate", "--adapter", "caddyfile", "--config", str(tmp_path / name)]
        said = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=said)
        assert ended.returncode == 0, ended.stderr


def test_part_of_a_lock_is_what_was_asked_for_and_all_it_needs(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(
        "a[x]==1 \\\n    --hash=sha256:1\n    # via medsegformer (pyproject.toml)\n"
        "b==2 \\\n    --hash=sha256:2\n    # via\n    #   a\n    #   c\n"
        "c==3 ; sys_platform == 'linux' \\\n    --hash=sha256:3\n    # via medsegformer (pyproject.toml)\n"
        "d==4 \\\n    --hash=sha256:4\n    # via b\n"
    )
    command = [sys.executable, DOCKER / "part_of_lock.py", lock]
    part = subprocess.run([*command, "A"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^([a-z])", part, re.MULTILINE) == ["a", "b", "d"]
    refused = subprocess.run([*command, "nonsense"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "make lock" in refused.stderr) == (1, True)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_images_get_the_program_and_no_tools_of_development(name: str) -> None:
    command = [sys.executable, DOCKER / "part_of_lock.py", name, "--project", "pyproject.toml", "setuptools"]
    part = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^([A-Za-z0-9._-]+?)(?:\[.*?])?==", part, re.MULTILINE))
    assert {"torch", "prefect", "mlflow", "dvc", "dvc-s3", "setuptools"} <= names
    assert not names & {"pytest", "ruff", "mypy", "monai", "moto", "simpleitk"}
