"""A training stage as manifests for Kubernetes: an Indexed Job with its service, a JobSet, or a Kubeflow TrainJob.

All three run the same pods, one a machine, each of which is the stage's launcher with its number from the job's index;
they meet at pod 0 by its name in the headless service. The project is a volume that all pods and the orchestrator see.
The certificate is checked before anything is rendered. Kueue admits what bears its label; it is suspended till then.
"""

import os
from typing import Any

from pipelines.training.wanted import Machines
from pipelines.work import environment

Manifest = dict[str, Any]

PORT = 29_500
PROJECT = "/project"
NODE = "node"  # the name that Kubeflow's trainer knows the pods' container and job by
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
AFTER_GRACE_S = 30  # for the launcher to end when its ranks have
# Of our environment, what pods see: as a job of Slurm's does, but for what is a file's place on another machine.
OURS = ("loaders", "shard_ranks", "checkpoint_s", "hang_s", "grace_s", "restarts", "uncertified", "deterministic")
PLAIN = ("MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")


def indexed_job(stage: str, name: str, asked: Machines) -> list[Manifest]:
    """A headless service, which gives pods their names, and the Job."""
    selector = {"batch.kubernetes.io/job-name": name}
    ports = [{"name": "rendezvous", "port": PORT, "protocol": "TCP"}]
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector, "ports": ports}
    job = _job(_pod(stage, f"{name}-0.{name}", asked), asked)
    job["template"]["spec"]["subdomain"] = name
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(name), "spec": {**job, **_suspended()}},
    ]


def job_set(stage: str, name: str, asked: Machines) -> list[Manifest]:
    """It makes the service by itself, and starts all pods again where one fails for good."""
    job = _job(_pod(stage, f"{name}-{NODE}-0-0.{name}", asked), asked)
    spec = {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": name},
        "failurePolicy": {"maxRestarts": environment.read().requeues},
        "replicatedJobs": [{"name": NODE, "replicas": 1, "template": {"spec": job}}],
        **_suspended(),
    }
    return [{"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": _metadata(name), "spec": spec}]


def train_job(stage: str, name: str, asked: Machines) -> list[Manifest]:
    """With a runtime of its own: Kubeflow's would start torchrun, and our launcher is its agent already."""
    api = "trainer.kubeflow.org/v1alpha1"
    label = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    pod = _pod(stage, f"{name}-{NODE}-0-0.{name}", asked)
    job = {"name": NODE, "template": {"metadata": {"labels": label}, "spec": _job(pod, asked)}}
    template = {"spec": {"failurePolicy": {"maxRestarts": environment.read().requeues}, "replicatedJobs": [job]}}
    runtime = {"mlPolicy": {"numNodes": asked.count}, "template": template}
    reference = {"apiGroup": api.partition("/")[0], "kind": "TrainingRuntime", "name": name}
    spec = {"runtimeRef": reference, "trainer": {"numNodes": asked.count}, **_suspended()}
    return [
        {"apiVersion": api, "kind": "TrainingRuntime", "metadata": {"name": name}, "spec": runtime},
        {"apiVersion": api, "kind": "TrainJob", "metadata": _metadata(name), "spec": spec},
    ]


FORMS = {"indexed-job": indexed_job, "jobset": job_set, "trainjob": train_job}


def _metadata(name: str) -> dict[str, Any]:
    queue = environment.read().kube_queue
    labels = {"app.kubernetes.io/name": "medseg", **({"kueue.x-k8s.io/queue-name": queue} if queue else {})}
    return {"name": name, "labels": labels}


def _suspended() -> dict[str, bool]:
    return {"suspend": True} if environment.read().kube_queue else {}


def _job(pod: dict[str, Any], asked: Machines) -> dict[str, Any]:
    """A pod that fails is made again, and the others wait for it (meeting.py). One taken away does not count."""
    refused = {"containerName": NODE, "operator": "In", "values": [1, 2]}  # the reason is in its log
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": refused},
    ]
    return {
        "completionMode": "Indexed",
        "completions": asked.count,
        "parallelism": asked.count,
        "backoffLimit": environment.read().requeues * asked.count,
        "podFailurePolicy": {"rules": rules},
        "template": {"spec": pod},
    }


def _pod(stage: str, first: str, asked: Machines) -> dict[str, Any]:
    """`first`: the name that pod 0 is found by."""
    ours = environment.read()
    shared = {"medium": "Memory", "sizeLimit": f"{max(1, ours.kube_memory_gib // 4)}Gi"}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": ours.grace_s + AFTER_GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(stage, first, asked)],
        "volumes": [
            {"name": "project", "persistentVolumeClaim": {"claimName": ours.kube_claim}},
            {"name": "shared-memory", "emptyDir": shared},
        ],
    }


def _container(stage: str, first: str, asked: Machines) -> dict[str, Any]:
    ours = environment.read()
    if not ours.image:
        raise ValueError("MEDSEG_IMAGE is not set; name the image that pods run, as in registry/medseg-train:0.1.0")
    gpus = {"nvidia.com/gpu": str(asked.gpus)} if asked.gpus else {}
    memory = {"memory": f"{ours.kube_memory_gib}Gi"}
    return {
        "name": NODE,
        "image": ours.image,
        "command": ["python", "-m", "pipelines", stage],
        "workingDir": PROJECT,
        "env": [
            *_variables(first, asked),
            {"name": "MEDSEG_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        ],
        **({"envFrom": [{"secretRef": {"name": ours.kube_secret}}]} if ours.kube_secret else {}),
        "ports": [{"name": "rendezvous", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": str(asked.cpus), **memory, **gpus}, "limits": {**memory, **gpus}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "project", "mountPath": PROJECT},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def _variables(first: str, asked: Machines) -> list[dict[str, Any]]:
    placed = {
        "MEDSEG_IN_JOB": "1",
        "MEDSEG_ROOT": PROJECT,
        "MEDSEG_NODES": str(asked.count),
        "MEDSEG_RANKS": str(asked.ranks),
        "MEDSEG_RENDEZVOUS": f"{first}:{PORT}",
    }
    wished = {*PLAIN, *(f"MEDSEG_{name.upper()}" for name in OURS)}
    given = {name: value for name, value in sorted(os.environ.items()) if name in wished and value}
    number = {"name": "MEDSEG_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}}
    return [*({"name": name, "value": value} for name, value in {**placed, **given}.items()), number]
