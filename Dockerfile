# recsys on a CPU. Build:  docker build --tag recsys .
# pip takes torch's CUDA build by default, gigabytes of it: EXTRA_INDEX may name an index of CPU builds (see docs/operations.md).
FROM python:3.11-slim AS build
ARG EXTRA_INDEX=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recsys recsys
COPY features features
COPY serving serving
COPY training training
RUN python -m venv /opt/recsys && \
    /opt/recsys/bin/pip install --no-cache-dir ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} --constraint constraints.txt ".[cpu]" && \
    /opt/recsys/bin/pip install --no-cache-dir --no-deps torchrec==1.9.2

FROM python:3.11-slim
# OpenMP, for torch, LightGBM and FAISS.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* && \
    useradd --create-home --uid 10001 recsys && install -d -o recsys /data
COPY --from=build /opt/recsys /opt/recsys
ENV PATH="/opt/recsys/bin:$PATH" PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["recsys"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
