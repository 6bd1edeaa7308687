# The command as an image; what it needs to know comes from the environment or from .env in /work, the project with your projections.
#   docker build --tag refold .
#   docker run --rm --volume "$PWD:/work:ro" --volume refold:/data --env REFOLD_LOG=redpanda://broker:9092 refold run revenue --flows revenue
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 refold \
 && mkdir /data /work \
 && chown refold:refold /data
COPY pyproject.toml README.md LICENSE /src/
COPY schemas /src/schemas
COPY connectors /src/connectors
COPY flows /src/flows
RUN pip install --no-cache-dir /src \
 && rm -r /src

USER refold
ENV NUMBA_CACHE_DIR=/home/refold/kernels \
    REFOLD_LOG=/data/log \
    REFOLD_STORE=/data/store
# Compiles the kernels, so that containers start at once (on another kind of processor they compile again). And no image is made
# of a refold whose rebuilt view is not its live one.
RUN REFOLD_CACHE=/tmp/flights refold demo --dir /tmp/demo \
 && rm -r /tmp/flights /tmp/demo

VOLUME /data
WORKDIR /work
ENTRYPOINT ["refold"]
CMD ["--help"]
