"""Run by `tomoni.export.llamacpp` as a process of its own: llama.cpp with one model, serving this machine only.

Reads one line of JSON with its settings, prints one line with its address, and ends when its standard input does, so
that it never outlives whoever started it.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import xllamacpp

    asked = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path = asked["path"]
    params.n_ctx = asked["context"]
    params.api_keys = [asked["key"]]
    params.hostnames = ["127.0.0.1"]
    params.n_gpu_layers = 0
    params.n_parallel = 1
    params.warmup = False
    params.ui = False
    params.use_jinja = True
    params.offline = True
    params.verbosity = 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.cpuparams.poll = params.cpuparams_batch.poll = 0  # a busy machine has no core to wait on
    if asked["exact"]:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
