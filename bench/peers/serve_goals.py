"""Measures the load goals of the server, beside llama-server on the same file, in one run; prints a table.

    python bench/peers/serve_goals.py --model mamba-130m.gguf --llama llama.cpp/build/bin/llama-server
    python bench/peers/serve_goals.py --model model.gguf --encoder bert/ --small

Each goal is a ratio, the median of --rounds with the least and the most. Servers are started one at a time and ended before the next; what is compared is
measured in turn, a round of each. A prompt of N tokens is N short words, most of which are one token. --small takes lengths that
show that everything runs, and no numbers of worth. Goals whose program is not given are left out and named. Only the standard library is needed.
"""

import argparse
import contextlib
import pathlib
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import types
import urllib.request
import json

from serve import Stream, rate, text, together

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT_IN = ROOT / "models/default"


def resident(process):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024


def processor(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@contextlib.contextmanager
def ours(options, *arguments, model=True):
    """A server of this project: what `Stream` wants to know, its process, and how long it took until it listened."""
    command = [options.longreach, "serve", "--port", "0"] + (["--model", options.model] if model else []) + list(arguments)
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    try:
        found = next((found for line in process.stderr if (found := re.search(r"listening on (http://\S+)", line))), None)
        if not found:
            raise SystemExit(f"{command[0]} serve does not start")
        took = time.perf_counter() - start
        threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
        yield types.SimpleNamespace(base=f"{found[1]}/v1", model=None, key="none", process=process, took=took)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def llama(options, tokens, *arguments):
    """Starts llama-server with a context of this many tokens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [options.llama, "-m", options.model, "--port", port, "-c", tokens, "-t", options.threads, *arguments]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.1)
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"llama-server does not start: {command}")
        yield types.SimpleNamespace(base=f"http://127.0.0.1:{port}/v1", model=None, key="none", process=process, port=port)
    finally:
        process.terminate()
        process.wait()


class Table:
    def __init__(self):
        print(f"{'goal':6} {'what':58} {'median':>9}  {'least to most':>20}  goal")

    def row(self, name, what, values, goal, unit=""):
        shown = f"{min(values):.3f} to {max(values):.3f}"
        print(f"{name:6} {what:58} {statistics.median(values):9.3f}  {shown:>20}  {goal} {unit}".rstrip(), flush=True)

    def missing(self, names, why):
        print(f"{names:6} not measured: {why}", flush=True)


def fresh(options, n):
    return text(n, random.random())


def one(server, options):
    return rate([Stream(server, text(8, random.random()), options.write)])


def generated(options):
    """Tokens a second of `longreach generate`."""
    command = [options.longreach, "generate", "--model", options.model, "--prompt", text(8, random.random()), "-n", options.write, "--temperature", 0]
    said = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stderr
    wrote, speed = re.search(r"wrote (\d+) at ([\d.]+) tok/s", said).groups()
    return float(speed) if int(wrote) > options.write / 2 else None


def turns(server, options):
    """Seconds to the first token of a long prompt, and of the turn behind it."""
    prompt = fresh(options, options.long)
    cold = Stream(server, prompt, 1)
    return prompt, cold.first(), Stream(server, prompt + " and then", 1).first()


def single(table, options):
    """G1 to G5, and G13."""
    g1, g2, g3, g4, g5, g13 = [], [], [], [], [], []
    for _ in range(options.rounds):
        with ours(options) as server:
            one(server, options)
            mine, many = one(server, options), rate(together(server, options.streams, options.write))
            first = Stream(server, fresh(options, options.tokens), 1).first()
        alone = generated(options)
        if alone:
            g1.append(mine / alone)
            g13.append(1e6 * (1 / mine - 1 / alone))
        g4.append(many / mine)
        if not options.llama:
            continue
        with llama(options, 2 * options.tokens + 2 * options.write) as server:
            one(server, options)
            g2.append(mine / one(server, options))
            g3.append(Stream(server, fresh(options, options.tokens), 1).first() / first)
        room = options.streams * (64 + 2 * options.write)
        with llama(options, room, "--parallel", options.streams) as server:
            one(server, options)
            g5.append(many / rate(together(server, options.streams, options.write)))
    if g1:
        table.row("G1", "one stream, over longreach generate", g1, "≥ 0.95")
    else:
        table.missing("G1 G13", "the model ends its texts before --write tokens")
    if options.llama:
        table.row("G2", "one stream, over llama-server", g2, "≥ 1.2")
        table.row("G3", f"first token of {options.tokens}, llama-server over ours", g3, "≥ 2.5")
    table.row("G4", f"{options.streams} streams over one, tokens a second of all", g4, "≥ 6")
    if options.llama:
        table.row("G5", f"{options.streams} streams, over llama-server --parallel", g5, "≥ 2")
    else:
        table.missing("G2 G3 G5", "no --llama")
    if g13:
        table.row("G13", "a token of the server more than of generate", g13, "≤ 50", "µs")


def behind(table, options):
    """G6 to G8: the second turn behind a long prompt."""
    g6, g7, g8, restored = [], [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            with ours(options, "--cache-dir", folder) as server:
                one(server, options)
                prompt, cold, warm = turns(server, options)
                time.sleep(1.5)  # states are written within a second
            with ours(options, "--cache-dir", folder) as server:
                one(server, options)
                disk = Stream(server, prompt + " and so", 1).first()
        g6.append(cold / warm)
        g7.append(cold / disk)
        if not options.llama:
            continue
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--slot-save-path", folder, "--parallel", 1]
            with llama(options, 2 * options.long + 64, *arguments) as server:
                one(server, options)
                _, _, theirs = turns(server, options)
                g8.append(theirs / warm)
                slot(server, "save")
            with llama(options, 2 * options.long + 64, *arguments) as server:
                slot(server, "restore")
                restored.append(Stream(server, prompt + " and so", 1).first() / disk)
    table.row("G6", f"second turn behind {options.long}, cold over warm", g6, "≥ 50")
    table.row("G7", "the same after a restart, from disk", g7, "≥ 30")
    if options.llama:
        table.row("G8", "that turn, llama-server over ours", g8, "≥ 5")
        table.row("G8", "that turn after a restart, llama-server's restore over ours", restored, "≥ 100")
    else:
        table.missing("G8", "no --llama")


def slot(server, action):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/slots/0?action={action}", json.dumps({"filename": "slot"}).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


def beside(table, options):
    """G9 and G10: streams run while a very long prompt is read."""
    g9, g10 = [], []
    for _ in range(options.rounds):
        with ours(options) as server:
            one(server, options)
            alone = Stream(server, text(8, random.random()), options.write).gap()
            reading = Stream(server, fresh(options, options.longest), 1).first()
            stop = threading.Event()
            running = []

            def write():
                while not stop.is_set():
                    running.append(Stream(server, text(8, random.random()), options.write))

            threads = [threading.Thread(target=write) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            company = Stream(server, fresh(options, options.longest), 1)
            stop.set()
            for thread in threads:
                thread.join()
        g9.append(max(stream.gap(company.start, company.times[0]) for stream in running) / alone)
        g10.append(company.first() / reading)
    table.row("G9", f"longest gap while {options.longest} are read, over alone", g9, "≤ 6")
    table.row("G10", "those with four streams running, over alone", g10, "≤ 1.6")


def idle(table, options):
    """G11: connections that ask nothing."""
    megabytes, share = [], []
    for _ in range(options.rounds):
        with ours(options, model=False) as server:
            host, port = server.base.removeprefix("http://").removesuffix("/v1").split(":")
            before = resident(server.process)
            opened = [socket.create_connection((host, int(port))) for _ in range(options.connections)]
            time.sleep(1)
            megabytes.append((resident(server.process) - before) / 1e6)
            used, start = processor(server.process), time.monotonic()
            time.sleep(3)
            share.append(100 * (processor(server.process) - used) / (time.monotonic() - start))
            for connection in opened:
                connection.close()
    table.row("G11", f"{options.connections} idle connections: memory", megabytes, "≤ 150", "MB")
    table.row("G11", "the same: processor", share, "0", "%")


def embedded(table, options):
    """G12: single texts of 32 clients, over a file of them."""
    if not options.encoder:
        return table.missing("G12", "no --encoder")
    values = []
    texts = [text(12, i) for i in range(options.texts)]
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "texts.txt"
            source.write_text("\n".join(texts) + "\n")
            command = [options.longreach, "embed", "--model", options.encoder, "--input", source, "--out", pathlib.Path(folder) / "v.npy"]
            # Of two runs the difference is the embedding, without the start and the loading of the model.
            runs = []
            for count in [1, len(texts)]:
                source.write_text("\n".join(texts[:count]) + "\n")
                start = time.perf_counter()
                subprocess.run([str(part) for part in command], check=True, capture_output=True)
                runs.append(time.perf_counter() - start)
                (pathlib.Path(folder) / "v.npy").unlink()
            file = (len(texts) - 1) / max(runs[1] - runs[0], 1e-3)
        with ours(options, "--model", options.encoder, model=False) as server:
            queue, failed, lock = list(texts), [], threading.Lock()

            def client():
                while True:
                    with lock:
                        if not queue:
                            return
                        one_text = queue.pop()
                    body = json.dumps({"input": one_text}).encode()
                    request = urllib.request.Request(f"{server.base}/embeddings", body, {"content-type": "application/json"})
                    try:
                        urllib.request.urlopen(request, timeout=600).read()
                    except OSError as error:
                        failed.append(error)

            threads = [threading.Thread(target=client) for _ in range(32)]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failed:
                raise SystemExit(f"embedding failed: {failed[0]}")
            values.append(len(texts) / (time.perf_counter() - start) / file)
    return table.row("G12", "32 clients embedding single texts, over longreach embed", values, "≥ 0.85")


def started(table, options):
    """G14: from the start of the program until it listens."""
    took = []
    for _ in range(options.rounds):
        with ours(options, model=False) as server:
            took.append(server.took)
    table.row("G14", "start to listening, built-in model", took, "≤ 0.3", "s")


GOALS = {"single": single, "behind": behind, "beside": beside, "idle": idle, "embedded": embedded, "started": started}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longreach", default=ROOT / "target/release/longreach")
    parser.add_argument("--llama", help="llama-server")
    parser.add_argument("--model", default=BUILT_IN, help="a GGUF file for both, or a directory for ours alone")
    parser.add_argument("--encoder", help="a directory of an encoder, for G12")
    parser.add_argument("--threads", type=int, default=len(__import__("os").sched_getaffinity(0)), help="threads of llama-server")
    parser.add_argument("--only", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--long", type=int, default=16_384)
    parser.add_argument("--longest", type=int, default=65_536)
    parser.add_argument("--write", type=int, default=128)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--texts", type=int, default=2_000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.rounds, options.tokens, options.long, options.longest, options.write = 1, 128, 512, 1024, 24
        options.streams, options.texts, options.connections = 4, 100, 500
    if options.llama and not shutil.which(options.llama):
        raise SystemExit(f"{options.llama} is no program")
    if options.llama and pathlib.Path(options.model).is_dir():
        raise SystemExit("llama-server needs a GGUF file: give one as --model")
    table = Table()
    for name in options.only:
        GOALS[name](table, options)


if __name__ == "__main__":
    main()
