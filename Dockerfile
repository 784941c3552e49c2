# One image for the worker, the Prefect server and every closecast command (docs/containers.md).

FROM python:3.11-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/venv
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/venv
COPY requirements-image.lock /opt/closecast/
# The locked packages are a separate layer, so a change of the code does not install them again. TensorFlow's headers
# and Clang (0.35 GB) are only needed to compile against it.
RUN uv pip install --no-cache --no-deps --require-hashes --requirement /opt/closecast/requirements-image.lock \
    && rm -r /opt/venv/lib/python3.*/site-packages/tensorflow/include /opt/venv/lib/python3.*/site-packages/clang
COPY . /src
RUN uv pip install --no-cache --no-deps --no-build-isolation /src

FROM python:3.11-slim-bookworm
# A numeric user, so Kubernetes can check that it is not root; 1000 is usually a host's first user.
RUN groupadd --gid 1000 closecast \
    && useradd --uid 1000 --gid 1000 --home-dir /var/lib/closecast closecast \
    && install --directory --owner 1000 --group 1000 /var/lib/closecast
COPY --from=build /opt/venv /opt/venv
COPY prefect.yaml /opt/closecast/
# Writes go only to /var/lib/closecast and /tmp; the rest may be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    CLOSECAST_HOME=/var/lib/closecast/home \
    PREFECT_HOME=/var/lib/closecast/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    ARROW_DEFAULT_MEMORY_POOL=system \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /opt/closecast
# The worker's health endpoint fails when it no longer polls for runs. There is no entry point, because Prefect's Docker and
# Kubernetes pools pass a whole command.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
CMD ["prefect", "worker", "start", "--pool", "closecast", "--type", "process", "--with-healthcheck"]
