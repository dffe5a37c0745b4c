# The image that the Pods of a run are made of, one for each kind of machine:
#   docker build --build-arg EXTRA=tpu  -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/unmask:tpu .
#   docker build --build-arg EXTRA=cuda -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/unmask:cuda .
# Without EXTRA it runs on CPUs. .dockerignore lets in the code alone.
FROM python:3.11.13-slim-bookworm

# On GKE the driver's libraries are mounted where the last line says.
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64

RUN useradd --create-home --uid 1000 unmask

# Configs are named as in the checkout: --config=configs/roberta_base.py
WORKDIR /opt/unmask
COPY . .

ARG EXTRA=
RUN pip install -c constraints.txt -e ".${EXTRA:+[$EXTRA]}"

# By number, so that Kubernetes can see that it is not root.
USER 1000

CMD ["python", "-m", "pretrain", "--help"]
