# syntax=docker/dockerfile:1
# Takes runs from the work pool and does the stages on the CPU; any medseg command.
# Build   docker build -f docker/worker.Dockerfile -t medsegformer/worker:0.1.0 .        # or buildah, podman; in the checkout
#         --build-arg BASE=...          another Debian 12, by digest say
#         --build-arg PIP_NO_INDEX=1    from ./wheels alone (docker/airgap)
ARG BASE=docker.io/library/debian:12.12-slim

# hadolint ignore=DL3006
FROM ${BASE} AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
ARG PIP_NO_INDEX=
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/medseg \
    && python3 docker/part_of_lock.py requirements.lock setuptools > /tmp/build.lock \
    && python3 docker/part_of_lock.py requirements.lock --project pyproject.toml setuptools > /tmp/part.lock \
    && /opt/medseg/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
       --find-links wheels --require-hashes --requirement /tmp/build.lock \
    && /opt/medseg/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
       --find-links wheels --no-build-isolation --require-hashes --requirement /tmp/part.lock \
    && /opt/medseg/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && /opt/medseg/bin/pip uninstall --quiet --yes pip \
    && find /opt/medseg -name __pycache__ -prune -exec rm -r {} +

# hadolint ignore=DL3006
FROM ${BASE}
# What apt notes of its work would differ from build to build.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 tini git openssh-client \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/cache/debconf/*-old /var/log/* \
    && find / -xdev -name __pycache__ -prune -exec rm -r {} + \
    && mkdir -p /project && chown 10001:10001 /project
COPY --from=build /opt/medseg /opt/medseg
COPY docker/with-secrets /usr/local/bin/with-secrets
ENV PATH=/opt/medseg/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR=/tmp/dvc MLFLOW_DISABLE_TELEMETRY=true PREFECT_SERVER_ANALYTICS_ENABLED=false
WORKDIR /project
USER 10001:10001
VOLUME ["/project"]
ENTRYPOINT ["tini", "-g", "--", "with-secrets"]
CMD ["prefect", "worker", "start", "--pool", "medseg", "--type", "process", "--install-policy", "never"]
