# The command with all that runs on CPUs but training: embed, index, search, classify, serve.
#   docker build -t simclr .
#   docker run --rm -v "$PWD":/data simclr embed photos --model export --index out.faiss
#   docker run --rm -p 8000:8000 -e SIMCLR_TOKEN="$(openssl rand -hex 16)" -v "$PWD":/data:ro simclr serve out.faiss --host 0.0.0.0
# EXTRAS=all-cpu adds torch, for `simclr pretrain` and `simclr export`.
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG EXTRAS=cpu,classify,serve,heif,s3
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /tmp/wheels/*.whl)[$EXTRAS]" \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && useradd --create-home simclr \
    && mkdir /data && chown simclr /data
USER simclr
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["simclr"]
