# The command with all that runs on CPUs but training: embed, index, search, classify, serve.
#   docker build -t simclr .
# How to run it: docs/serving.md.
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
