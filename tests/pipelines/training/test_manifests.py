"""Manifests that the schemas of Kubernetes, JobSet and Kubeflow take; their pods find each other and the project."""

import os
from typing import Any

import kubernetes_validate
import pytest
from kubeflow_trainer_api import models

from pipelines.training import manifests
from pipelines.training.wanted import Machines

NAME = "medseg-train-0123456789ab"
FOUR = Machines(count=4, ranks=8, cpus=64, gpus=8)
KUBERNETES = "1.37"


@pytest.fixture(autouse=True)
def placed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MEDSEG_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDSEG_IMAGE", "registry.example/medseg-train:0.1.0")


def rendered(form: str) -> list[manifests.Manifest]:
    return manifests.FORMS[form]("train", NAME, FOUR)


def job_spec(form: str) -> dict[str, Any]:
    documents = rendered(form)
    if form == "indexed-job":
        return documents[1]["spec"]
    template = documents[0]["spec"] if form == "jobset" else documents[0]["spec"]["template"]["spec"]
    return template["replicatedJobs"][0]["template"]["spec"]


def container(form: str) -> dict[str, Any]:
    return job_spec(form)["template"]["spec"]["containers"][0]


def variables(form: str) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(form)["env"]}


def refuse_unknown(model: Any, document: dict[str, Any]) -> None:
    """The model takes the document, and what it says comes back whole: it leaves out what it does not know."""
    assert model.from_dict(document).to_dict() == document


@pytest.mark.parametrize("queue", ["", "gpu"])
def test_the_schemas_take_them(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if queue:
        monkeypatch.setenv("MEDSEG_KUBE_QUEUE", queue)
        monkeypatch.setenv("MEDSEG_KUBE_SECRET", "mlflow")
    for document in rendered("indexed-job"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    refuse_unknown(models.JobsetV1alpha2JobSet, rendered("jobset")[0])
    runtime, job = rendered("trainjob")
    refuse_unknown(models.TrainerV1alpha1TrainingRuntime, runtime)
    refuse_unknown(models.TrainerV1alpha1TrainJob, job)
    for form in ("jobset", "trainjob"):  # the Job in them, by Kubernetes' own schema
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": NAME}, "spec": job_spec(form)}
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_an_unknown_key_is_refused_by_these_checks() -> None:
    job = rendered("indexed-job")[1]
    job["spec"]["parallelsim"] = 4
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
    jobs = rendered("jobset")[0]
    jobs["spec"]["netwrok"] = {}
    with pytest.raises(AssertionError):
        refuse_unknown(models.JobsetV1alpha2JobSet, jobs)


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("indexed-job", f"{NAME}-0.{NAME}"),
        ("jobset", f"{NAME}-node-0-0.{NAME}"),
        ("trainjob", f"{NAME}-node-0-0.{NAME}"),
    ],
)
def test_pods_meet_at_the_first_by_the_name_that_it_gets(form: str, first: str) -> None:
    said = variables(form)
    assert said["MEDSEG_RENDEZVOUS"] == f"{first}:29500"
    assert (said["MEDSEG_NODES"], said["MEDSEG_RANKS"], said["MEDSEG_IN_JOB"]) == ("4", "8", "1")
    number = next(each for each in container(form)["env"] if each["name"] == "MEDSEG_NODE_RANK")
    assert number["valueFrom"] == {
        "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
    }


def test_the_headless_service_is_the_jobs_and_names_pods_before_they_are_ready() -> None:
    service, job = rendered("indexed-job")
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == NAME
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)


@pytest.mark.parametrize("form", list(manifests.FORMS))
def test_kueue_admits_what_waits_for_it(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queued = rendered(form)[-1]
    assert "kueue.x-k8s.io/queue-name" not in queued["metadata"]["labels"]
    assert "suspend" not in queued["spec"]
    monkeypatch.setenv("MEDSEG_KUBE_QUEUE", "gpu")
    queued = rendered(form)[-1]
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert queued["spec"]["suspend"] is True


@pytest.mark.parametrize("form", list(manifests.FORMS))
def test_pods_get_what_ranks_need_and_no_secret(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_GRACE_S", "300")
    monkeypatch.setenv("MEDSEG_KEY_FILE", "/home/me/key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    pod = job_spec(form)["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 300
    assert pod["restartPolicy"] == "Never"  # what a pod failure policy asks for
    assert container(form)["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert variables(form)["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert not {"MEDSEG_KEY_FILE", "MLFLOW_TRACKING_PASSWORD"} & set(variables(form))
    mounted = {each["mountPath"] for each in container(form)["volumeMounts"]}
    assert mounted == {"/project", "/dev/shm"}


def test_an_image_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSEG_IMAGE")
    with pytest.raises(ValueError, match=r"^MEDSEG_IMAGE is not set; name the image"):
        rendered("jobset")
