# The operator, and with --target web the view over all runs. Built from the repository's root:
#   docker build -t trainingtask-operator .
#   docker build -t trainingtask-web --target web .
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE} AS python

# A base that brings Python already needs no package source.
RUN python3 -c 'import ensurepip' 2>/dev/null || \
    { apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv

COPY requirements/build.txt /build/requirements/
RUN pip install --no-cache-dir --require-hashes -r /build/requirements/build.txt

# In each, the code comes last: a change of it rebuilds one layer.
FROM python AS web
COPY requirements/web.txt /build/requirements/
RUN uv pip install --compile-bytecode --require-hashes -r /build/requirements/web.txt
COPY pyproject.toml README.md /build/
COPY crds/trainingtask_api /build/crds/trainingtask_api
COPY web/trainingtask_web /build/web/trainingtask_web
RUN uv pip install --compile-bytecode --no-deps --no-build-isolation /build
USER 1000:1000
ENTRYPOINT ["python", "-m", "trainingtask_web"]

FROM python AS operator
COPY requirements/operator.txt /build/requirements/
RUN uv pip install --compile-bytecode --require-hashes -r /build/requirements/operator.txt
COPY pyproject.toml README.md /build/
COPY crds/trainingtask_api /build/crds/trainingtask_api
COPY operator/trainingtask_operator /build/operator/trainingtask_operator
RUN uv pip install --compile-bytecode --no-deps --no-build-isolation /build
USER 1000:1000
ENTRYPOINT ["python", "-m", "trainingtask_operator"]
