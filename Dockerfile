# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/batuta
WORKDIR /src
# Dependencies change less often than code: their own layer, from the hashed lock.
COPY requirements.lock ./
RUN /opt/batuta/bin/pip install --require-hashes --requirement requirements.lock
# The build backend comes from the development lock, in an environment that does not reach the image.
COPY requirements-dev.lock ./
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --requirement requirements-dev.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY engine engine
COPY models models
COPY config config
COPY agents agents
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/batuta/bin/pip install --no-deps --no-index /dist/*.whl

FROM python:3.11-slim
LABEL org.opencontainers.image.title="batuta" \
      org.opencontainers.image.description="Streaming decisioning on Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/batuta batuta
COPY --from=build /opt/batuta /opt/batuta
ENV PATH=/opt/batuta/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BATUTA_WEB_HOST=0.0.0.0 \
    BATUTA_WEB_PORT=6066
USER batuta
WORKDIR /var/lib/batuta
EXPOSE 6066
# Alive is enough here; whether the worker may be sent traffic is what /readyz says.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['BATUTA_WEB_PORT'] + '/healthz', timeout=2)"]
# SIGTERM lets the worker drain and commit before it leaves its group.
STOPSIGNAL SIGTERM
ENTRYPOINT ["batuta"]
CMD ["up", "/etc/batuta"]
