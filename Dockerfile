# The operator, with --target web the view over all runs, and with --target serve the server of a trained model. Built from
# the repository's root:
#   docker build -t trainingtask-operator .
#   docker build -t trainingtask-web --target web .
#   docker build -t trainingtask-serve --target serve .
# `make base-image` pins the base by its digest.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE} AS python

# A base that brings Python already needs no package source.
RUN python3 -c 'import ensurepip' 2>/dev/null || \
    { apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv PYTHONSAFEPATH=1

COPY requirements/build.txt /build/requirements/
RUN pip install --no-cache-dir --require-hashes -r /build/requirements/build.txt

# In each, the code comes last: a change of it rebuilds one layer.
FROM python AS web
COPY requirements/web.txt /build/requirements/
RUN uv pip install --compile-bytecode --require-hashes -r /build/requirements/web.txt
COPY pyproject.toml README.md /build/
COPY crds/trainingtask_api /build/crds/trainingtask_api
COPY history/trainingtask_history /build/history/trainingtask_history
COPY web/trainingtask_web /build/web/trainingtask_web
RUN uv pip install --compile-bytecode --no-deps --no-build-isolation /build
USER 1000:1000
ENTRYPOINT ["python", "-m", "trainingtask_web"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trainingtask-web" \
    org.opencontainers.image.description="Pages and HTTP API over the runs of TrainingTasks" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"

FROM python AS serve
COPY requirements/serve.txt /build/requirements/
RUN uv pip install --compile-bytecode --require-hashes -r /build/requirements/serve.txt
COPY pyproject.toml README.md /build/
COPY crds/trainingtask_api /build/crds/trainingtask_api
COPY trainer_image/trainingtask_trainer /build/trainer_image/trainingtask_trainer
RUN uv pip install --compile-bytecode --no-deps --no-build-isolation /build
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["trainingtask-trainer", "serve", "--host=0.0.0.0"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trainingtask-serve" \
    org.opencontainers.image.description="Serves a model of trainingtask-trainer over HTTP" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"

FROM python AS operator
COPY requirements/operator.txt /build/requirements/
RUN uv pip install --compile-bytecode --require-hashes -r /build/requirements/operator.txt
COPY pyproject.toml README.md /build/
COPY crds/trainingtask_api /build/crds/trainingtask_api
COPY history/trainingtask_history /build/history/trainingtask_history
COPY operator/trainingtask_operator /build/operator/trainingtask_operator
RUN uv pip install --compile-bytecode --no-deps --no-build-isolation /build
USER 1000:1000
ENTRYPOINT ["python", "-m", "trainingtask_operator"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trainingtask-operator" \
    org.opencontainers.image.description="Turns TrainingTasks into Jobs and reports on them" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
