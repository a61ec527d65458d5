# BlockFL's own image, twice: `service` (contract services, aggregators, set-up, commands) and `training`, the same with
# TensorFlow, for institutions' agents. Neither holds a key, a certificate or data.
#
#   docker build --target service .     or both: make images
#
# Wheels are taken from build/wheelhouse if there are any, and from the package index otherwise; always by hash.
ARG BASE=python:3.11-slim-bookworm

FROM scratch AS wheels
# The wheelhouse as a pattern, because it may be missing.
COPY requirements buil[d]/wheelhouse /

FROM ${BASE} AS installer
RUN python3 -m venv /opt/installer && python3 -m venv --without-pip /opt/blockfl
RUN --mount=type=bind,from=wheels,target=/wheels \
    /opt/installer/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes \
        $(ls /wheels/*.whl >/dev/null 2>&1 && echo --no-index --find-links /wheels) -r /wheels/installer.txt
ENV UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_LINK_MODE=copy

# Our own code, built from its source; neither the source nor what builds it stays in the image.
FROM installer AS product
RUN --mount=type=bind,source=.,target=/source \
    mkdir /tmp/product && cd /source \
    && cp -r LICENSE README.md pyproject.toml protocol fabric network chaincode clients aggregator /tmp/product \
    && cd /tmp/product && /opt/installer/bin/python -m hatchling build -t wheel -d /opt/wheel

# Compiled in the image: containers cannot, and TensorFlow alone would take ten seconds more at every start.
FROM installer AS service-packages
RUN --mount=type=bind,from=wheels,target=/wheels \
    /opt/installer/bin/uv pip install --quiet --python /opt/blockfl/bin/python --require-hashes \
        $(ls /wheels/*.whl >/dev/null 2>&1 && echo --no-index --find-links /wheels) -r /wheels/service.txt \
    && /opt/blockfl/bin/python -m compileall -q -j 0 /opt/blockfl/lib

FROM service-packages AS training-packages
RUN --mount=type=bind,from=wheels,target=/wheels \
    /opt/installer/bin/uv pip install --quiet --python /opt/blockfl/bin/python --require-hashes \
        $(ls /wheels/*.whl >/dev/null 2>&1 && echo --no-index --find-links /wheels) -r /wheels/training.txt \
    && (/opt/blockfl/bin/python -m compileall -q -j 0 /opt/blockfl/lib || true)

FROM service-packages AS service-files
RUN --mount=type=bind,from=product,source=/opt/wheel,target=/wheel \
    /opt/installer/bin/uv pip install --quiet --python /opt/blockfl/bin/python --no-deps --no-index /wheel/*.whl \
    && /opt/blockfl/bin/python -m compileall -q /opt/blockfl/lib/python3*/site-packages/blockfl

FROM training-packages AS training-files
RUN --mount=type=bind,from=product,source=/opt/wheel,target=/wheel \
    /opt/installer/bin/uv pip install --quiet --python /opt/blockfl/bin/python --no-deps --no-index /wheel/*.whl \
    && /opt/blockfl/bin/python -m compileall -q /opt/blockfl/lib/python3*/site-packages/blockfl

FROM ${BASE} AS runtime
# Whoever runs it writes to /tmp and to what is mounted, and to nothing else. The heartbeat is a file that a living
# process touches every few seconds.
ENV PATH=/opt/blockfl/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    BLOCKFL_HEARTBEAT=/tmp/alive TF_CPP_MIN_LOG_LEVEL=3 GRPC_VERBOSITY=ERROR
USER 1000:1000
WORKDIR /tmp
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=6 \
    CMD test -n "$(find "$BLOCKFL_HEARTBEAT" -mmin -1)"
CMD ["blockfl", "--help"]

FROM runtime AS training
COPY --from=training-files /opt/blockfl /opt/blockfl

FROM runtime AS service
COPY --from=service-files /opt/blockfl /opt/blockfl
