# The server of `hart serve`, see docs/serve.md:
#   docker build --tag hart .                              for CPUs
#   docker build --tag hart --build-arg VARIANT=cuda .     for NVIDIA's GPUs
ARG VARIANT=cpu

FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /source
COPY constraints.txt ./

FROM base AS cpu
RUN pip install --constraint constraints.txt torch --index-url https://download.pytorch.org/whl/cpu

# The package index's own wheels bring CUDA.
FROM base AS cuda
RUN pip install --constraint constraints.txt torch

FROM ${VARIANT}
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY hart hart
RUN pip install --constraint constraints.txt ".[server]" && useradd --create-home hart
USER hart
WORKDIR /home/hart
EXPOSE 8000
HEALTHCHECK --start-period=5m CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["hart", "serve", "--host", "0.0.0.0"]
