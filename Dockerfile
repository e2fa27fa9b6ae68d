# resurgsam2 on an NVIDIA GPU: see docs/gpu.md.
FROM python:3.12-slim
# Triton builds a launcher for each kernel with a C compiler; setup builds the C mixer for CPUs with it.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# What Triton compiles is kept with the weights, and any user may run it: docker run --user "$(id -u)" ...
ENV HOME=/tmp TRITON_CACHE_DIR=/weights/triton
RUN mkdir -m 1777 /weights
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
ENV RESURGSAM2_HOME=/weights
VOLUME /weights
WORKDIR /data
ENTRYPOINT ["resurgsam2"]
