# Two images from one file:
#
#     docker build --target service -t gradekeeper .
#     docker build --target sandbox-runner -t gradekeeper-runner .
#
# GRADEKEEPER_SANDBOX_PACKAGES=minimal leaves the heavy packages out of the grader interpreter. The
# package indexes are pip's and apt's own unless build arguments name others. Everything that is
# installed is pinned by hash in requirements/ and service/sandbox/images/. deploy/verify-image
# builds both without a registry and attacks them.

ARG BASE_IMAGE=docker.io/library/python:3.13-slim-trixie

# Compilers and package lists stay in here.
FROM ${BASE_IMAGE} AS tools
ARG DEBIAN_MIRROR
ARG GRADEKEEPER_SANDBOX_PACKAGES=full
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN if [ -n "${DEBIAN_MIRROR:-}" ]; then \
        sed -i "s|http://deb.debian.org/debian\$|${DEBIAN_MIRROR}|" /etc/apt/sources.list.d/debian.sources; \
    fi \
    && apt-get update -q \
    && apt-get install -q -y --no-install-recommends wordnet-base wordnet-sense-index \
        $(if [ "$GRADEKEEPER_SANDBOX_PACKAGES" = full ]; then echo build-essential python3-dev; fi)
WORKDIR /src

# The interpreters of Python graders, one per image_tag. Only their own inputs can make this anew.
FROM tools AS graders
ARG GRADEKEEPER_SANDBOX_PACKAGES=full
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY service/sandbox/build_image.py service/sandbox/
COPY service/sandbox/images service/sandbox/images
RUN for tag in $(ls service/sandbox/images); do \
        python3 service/sandbox/build_image.py "$tag" --packages "$GRADEKEEPER_SANDBOX_PACKAGES" \
            --into "/opt/gradekeeper/share/grader-images/$tag" || exit 1; \
    done; \
    rm /opt/gradekeeper/share/grader-images/*.lock

FROM tools AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/build
COPY requirements/build.txt requirements/
RUN /opt/build/bin/pip install --quiet --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY graders graders
COPY service service
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels .

# Bytecode is compiled here, since nobody can write it later, and without the time of the sources.
FROM tools AS runner-python
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/gradekeeper
COPY requirements/runner.txt requirements/
RUN /opt/gradekeeper/bin/pip install --quiet --no-compile --require-hashes -r requirements/runner.txt
COPY --from=wheel /wheels /wheels
RUN /opt/gradekeeper/bin/pip install --quiet --no-compile --no-index --no-deps /wheels/*.whl \
    && /opt/gradekeeper/bin/pip uninstall --quiet --yes pip \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/gradekeeper/lib

FROM tools AS service-python
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/gradekeeper
COPY requirements/serve.txt requirements/
RUN /opt/gradekeeper/bin/pip install --quiet --no-compile --require-hashes -r requirements/serve.txt
COPY --from=wheel /wheels /wheels
RUN /opt/gradekeeper/bin/pip install --quiet --no-compile --no-index --no-deps /wheels/*.whl \
    && /opt/gradekeeper/bin/pip uninstall --quiet --yes pip \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/gradekeeper/lib \
    && mkdir -p /opt/gradekeeper/share \
    && cp -rL /usr/share/wordnet /opt/gradekeeper/share/wordnet

# What both images are: files that belong to root, a user that owns none of them, no shell at start.
FROM ${BASE_IMAGE} AS container
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/gradekeeper/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/gradekeeper/bin/gradekeeper"]

# User code and no keys: pass it no GRADEKEEPER_API_KEY and the like, it refuses to start with one.
FROM container AS sandbox-runner
LABEL org.opencontainers.image.title="gradekeeper sandbox runner" \
      org.opencontainers.image.description="Runs the Python graders of gradekeeper; holds no keys."
COPY --from=graders /opt/gradekeeper/share/grader-images /opt/gradekeeper/share/grader-images
COPY --from=runner-python /opt/gradekeeper /opt/gradekeeper
ENV GRADEKEEPER_RUNNER_LISTEN=0.0.0.0:8081
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["/opt/gradekeeper/bin/gradekeeper", "health", "--runner"]
CMD ["runner"]

FROM container AS service
LABEL org.opencontainers.image.title="gradekeeper" \
      org.opencontainers.image.description="Self-hosted, versioned graders: OpenAI grader JSON in, rewards out, over HTTP."
COPY --from=graders /opt/gradekeeper/share/grader-images /opt/gradekeeper/share/grader-images
COPY --from=service-python /opt/gradekeeper /opt/gradekeeper
ENV GRADEKEEPER_HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["/opt/gradekeeper/bin/gradekeeper", "health"]
CMD ["serve"]
