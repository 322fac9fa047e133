"""llama.cpp on this CPU: prefill and decoding of GGUF files, through the library that llama-cpp-python builds.

pip install llama-cpp-python==0.3.36 --no-binary llama-cpp-python   (needs cmake and ninja; its source archive also holds
llama.cpp's convert_hf_to_gguf.py, which turns what decoders.py --save writes into GGUF: --outtype f32 or bf16)
python llama.py FILE.gguf [...]
"""
import statistics
import sys
import time

import numpy
from llama_cpp import Llama

TOKENS, STEPS, RUNS = 1024, 64, 5

for path in sys.argv[1:]:
    model = Llama(path, n_ctx=2048, n_batch=1024, n_ubatch=512, n_threads=2, n_threads_batch=2, verbose=False)
    ids = [int(i) for i in numpy.random.default_rng(0).integers(0, model.n_vocab() - 300, TOKENS)]
    prefill, decode = [], []
    for run in range(RUNS + 1):
        model.reset()
        start = time.perf_counter()
        model.eval(ids)
        prefill.append(TOKENS / (time.perf_counter() - start))
        start = time.perf_counter()
        for i in range(STEPS):
            model.eval([ids[i]])
        decode.append(STEPS / (time.perf_counter() - start))
    line = [f"{name} {statistics.median(x[1:]):.1f} tok/s ({min(x[1:]):.1f} to {max(x[1:]):.1f})"
            for name, x in (("prefill", prefill), ("decode", decode))]
    print(path.rsplit("/", 1)[-1], *line, flush=True)
