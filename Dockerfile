# The demo, and after it every command, in a clean environment without a GPU:
#   docker build -t glsmooth . && docker run --rm -v "$PWD/outputs:/glsmooth/outputs" glsmooth
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /glsmooth
COPY . .
RUN make .venv/.installed
ENV PATH="/glsmooth/.venv/bin:$PATH"
CMD ["make", "demo"]
