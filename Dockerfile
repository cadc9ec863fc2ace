# syntax=docker/dockerfile:1
# Linted (hadolint), but unproven: nobody has built it yet.
# robustsmooth with its tested versions. On a CPU: docker build -t robustsmooth .
# On NVIDIA GPUs: docker build -t robustsmooth --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
# Then: docker run --rm -v "$PWD/runs:/runs" robustsmooth train method=gaussian hydra.run.dir=/runs/gaussian
#       docker run --rm --gpus all --ipc=host -v /data:/data -v "$PWD/runs:/runs" robustsmooth train trainer=gpu data=cifar10 data.root=/data
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 VIRTUAL_ENV=/opt/robustsmooth PATH=/opt/robustsmooth/bin:$PATH
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null; then \
      apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; \
    fi && python3 -m venv "$VIRTUAL_ENV"
WORKDIR /src
COPY . .
# The CPU base gets torch's CPU build where the package index that pip is told of has one: --build-arg TORCH="torch==2.13.0+cpu".
ARG TORCH=
ARG EXTRAS=timm,tensorboard,attacks,sweeps
# hadolint ignore=DL3013
RUN if [ -n "$TORCH" ]; then pip install "$TORCH"; fi \
 && pip install -c constraints.txt ".[$EXTRAS]" \
 && useradd --create-home runner && mkdir /runs && chown runner /runs
# hadolint ignore=DL3066
USER runner
WORKDIR /runs
ENTRYPOINT ["robustsmooth"]
CMD ["--help"]
