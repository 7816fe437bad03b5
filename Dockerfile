# diffclf for machines with NVIDIA GPUs:
#   docker build --tag diffclf --build-arg USER_ID="$(id -u)" .
#   docker run --rm --gpus all --volume diffclf-cache:/home/diffclf/.cache --volume "$PWD":/home/diffclf/work diffclf ...
# With your own number the image's user can write into your folder. torch brings its own CUDA libraries; the driver of
# the host must support them. For another build of torch, as the Makefile's TORCH:
#   --build-arg TORCH="torch==..." --build-arg PIP_EXTRA_INDEX_URL=...
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

# g++ and the headers of Python are for --compile.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
       g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/diffclf
ENV PATH=/opt/venv/bin:$PATH \
    OMP_WAIT_POLICY=PASSIVE \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# The dependencies first: this layer stays as it is while only the code changes.
ARG TORCH
ARG PIP_EXTRA_INDEX_URL
COPY requirements.lock ./
RUN sed --in-place "s|^torch==.*|${TORCH:-&}|" requirements.lock \
    && python3 -m venv /opt/venv \
    && pip install --requirement requirements.lock

COPY LICENSE README.md pyproject.toml ./
COPY diffclf ./diffclf
COPY docs ./docs
COPY notebooks ./notebooks
COPY data ./data
RUN pip install --no-build-isolation --no-deps --editable .

# Models and data sets of the hub go to the cache, results to the folder work; nothing else can be written.
ARG USER_ID=10001
RUN test "$USER_ID" -gt 0 && useradd --create-home --non-unique --uid "$USER_ID" diffclf \
    && install --directory --owner=diffclf --group=diffclf /home/diffclf/.cache /home/diffclf/work
ENV DIFFCLF_REPORTS=/home/diffclf/work/reports
USER $USER_ID
WORKDIR /home/diffclf/work
ENTRYPOINT ["diffclf"]
CMD ["--help"]
