"""Loads `longreach serve` with everything at once, and fails if memory grows, a counter is wrong, or an answer changes.

    python bench/peers/soak.py --binary target/release/longreach --seconds 1800

First many connections are opened that ask nothing, every second one with half of a header, and a request is answered beside them. Then, for --seconds:

- conversations that grow turn by turn, with streams and without;
- the same request again and again, whose answer must stay the same;
- texts of two keys, of which neither may find what the other had read;
- texts that are embedded, documents that are read by name, asked about and deleted;
- clients that vanish within a request or a stream, and clients that do not read theirs;
- bodies that are damaged.

The resident memory is sampled every second. It grows if the median of the last fifth is more than --growth above that of the second fifth, in
which the caches are full: they are small here. At the end nothing runs, waits or is connected, and every request that was sent is counted once.
Only the standard library is needed.
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEYS = ["first", "second"]


class Server:
    """A server with small caches, and what it says about itself."""

    def __init__(self, options):
        command = [options.binary, "serve", "--port", "0", "--cache-ram", "64MB", "--states-ram", "32MB", "--max-queue", "1000"]
        command += ["--model", ROOT / "models/default", "--model", ROOT / "crates/engine/tests/goldens/st-bert-mean"]
        for key in KEYS:
            command += ["--api-key", key]
        if options.cache_dir:
            command += ["--cache-dir", options.cache_dir, "--cache-disk", "200MB"]
        self.process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
        found = next(found for line in self.process.stderr if (found := re.search(r"listening on http://([\d.]+):(\d+)", line)))
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        self.address = (found[1], int(found[2]))

    def proc(self, file):
        return pathlib.Path(f"/proc/{self.process.pid}/{file}").read_text()

    def resident(self):
        return int(re.search(r"VmRSS:\s+(\d+)", self.proc("status"))[1]) * 1024

    def seconds(self):
        """Processor time so far."""
        fields = self.proc("stat").rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, method, path, body=None, key=KEYS[0]):
        """An answer: its status and what it says."""
        connection = http.client.HTTPConnection(*self.address, timeout=300)
        headers = {"authorization": f"Bearer {key}"}
        if body is not None:
            headers["content-type"] = "application/json"
            body = json.dumps(body)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        said = response.read().decode(errors="replace")
        connection.close()
        return response.status, said

    def metrics(self):
        numbers = collections.Counter()
        for line in self.ask("GET", "/metrics")[1].splitlines():
            if not line.startswith("#") and (found := re.match(r"(\w+)(\{.*\})? (\S+)$", line)):
                numbers[found[1]] += float(found[3])
                numbers[found[1] + (found[2] or "")] += float(found[3]) if found[2] else 0
        return numbers


def need(true, message):
    if not true:
        raise SystemExit(f"FAILED: {message}")


def idle(server, options):
    """Opens connections that ask nothing."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    count = min(options.connections, limit - 200)
    if count < options.connections:
        print(f"note: the limit of open files allows {count} connections instead of {options.connections}")
    request = {"prompt": "A trait is", "max_tokens": 5}
    server.ask("POST", "/v1/completions", request)  # what a first request takes is not theirs
    before = server.resident()
    opened = [socket.create_connection(server.address) for _ in range(count)]
    time.sleep(1)
    more = server.resident() - before
    start, used = time.monotonic(), server.seconds()
    time.sleep(3)
    share = (server.seconds() - used) / (time.monotonic() - start)
    # A header has ten seconds from its first byte.
    for connection in opened[::2]:
        connection.sendall(b"GET /health HT")
    status, _ = server.ask("POST", "/v1/completions", request)
    need(status == 200, f"beside {count} connections a request gets {status}")
    there = server.metrics()["longreach_connections"]
    need(there >= 0.95 * count, f"{count} connections were opened, the server has {there:.0f}")
    slow = server.resident() - before
    print(f"{count} idle connections: {more / 1e6:.1f} MB more memory, {100 * share:.1f} % of a processor; half of them slow: {slow / 1e6:.1f} MB")
    need(more < 150e6, "idle connections take more than 150 MB")
    need(slow < 300e6, "slow connections take more than 300 MB")
    for connection in opened:
        connection.close()


class Load:
    """Threads that ask until the time is over."""

    def __init__(self, server, seconds):
        self.server, self.end = server, time.monotonic() + seconds
        self.statuses, self.errors, self.lock = collections.Counter(), [], threading.Lock()

    def asked(self, *arguments, good=(200,), **more):
        status, said = self.server.ask(*arguments, **more)
        with self.lock:
            self.statuses[status] += 1
        if status not in good:
            raise AssertionError(f"{arguments[1]}: status {status}: {said[:300]}")
        return said

    def conversation(self, n):
        messages = []
        while len(messages) < 12 and time.monotonic() < self.end:
            messages.append({"role": "user", "content": " ".join(random.choice(["a trait", "is", "the owner", "of", str(n)]) for _ in range(40))})
            body = {"model": "default", "messages": messages, "max_tokens": random.randrange(1, 24), "stream": random.random() < 0.5}
            said = self.asked("POST", "/v1/chat/completions", body, key=KEYS[0])
            need(not body["stream"] or said.endswith("data: [DONE]\n\n"), f"a stream breaks off: {said[-200:]}")
            messages.append({"role": "assistant", "content": "It is a type."})

    def same(self, _):
        body = {"model": "default", "prompt": "A lifetime is a name for a part of the program. " * 8, "max_tokens": 12, "seed": 3, "logprobs": 2}
        choices = json.loads(self.asked("POST", "/v1/completions", body))["choices"]
        with self.lock:
            first = self.__dict__.setdefault("first", choices)
        need(first == choices, f"the same request gets another answer: {first} {choices}")

    def tenants(self, n):
        body = {"model": "default", "prompt": f"{n} {random.random()} " * 40, "max_tokens": 1}
        cached = []
        for key in [KEYS[0], KEYS[1], KEYS[0]]:
            cached.append(json.loads(self.asked("POST", "/v1/completions", body, key=key))["usage"]["prompt_tokens_details"]["cached_tokens"])
        need(cached[1] == 0, f"a key finds what another one had read: {cached}")

    def vectors(self, _):
        body = {"model": "st-bert-mean", "input": [f"text {random.random()}" for _ in range(random.randrange(1, 20))]}
        self.asked("POST", "/v1/embeddings", body)

    def document(self, n):
        state = json.loads(self.asked("POST", "/v1/states", {"model": "default", "prompt": f"{n} is a document. " * 60, "name": str(n)}, key=KEYS[1]))
        self.asked("POST", "/v1/completions", {"state": state["id"], "prompt": " And then", "max_tokens": 4}, key=KEYS[1])
        self.asked("GET", f"/v1/states/{state['id']}", key=KEYS[0], good=(404,))
        self.asked("DELETE", f"/v1/states/{state['id']}", key=KEYS[1])

    def raw(self, body, small=False):
        connection = socket.socket()
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(300)
        connection.connect(self.server.address)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEYS[1]}\r\ncontent-type: application/json\r\n"
        return connection, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def vanish(self, _):
        body = json.dumps({"model": "default", "prompt": "x " * random.randrange(1, 200), "max_tokens": 500, "stream": True, "ignore_eos": True}).encode()
        connection, request = self.raw(body)
        cut = random.choice([len(request), random.randrange(len(request))])
        connection.sendall(request[:cut])
        if cut == len(request) and random.random() < 0.7:
            connection.recv(random.choice([1, 200, 4000]))
        connection.close()
        time.sleep(0.01)

    def unread(self, _):
        """A client that reads nothing for a while, and then all that there is."""
        body = json.dumps({"model": "default", "prompt": "x", "max_tokens": 400, "stream": True, "ignore_eos": True, "logprobs": 20}).encode()
        connection, request = self.raw(body, small=True)
        connection.sendall(request)
        time.sleep(min(5, max(0, self.end - time.monotonic())))
        while connection.recv(1 << 16).count(b"[DONE]") == 0:
            pass
        connection.close()

    def damaged(self, _):
        body = bytearray(json.dumps({"model": "default", "prompt": "x", "max_tokens": 2, "n": 1, "stop": ["y"]}).encode())
        for _ in range(random.randrange(1, 4)):
            body[random.randrange(len(body))] = random.randrange(256)
        connection, request = self.raw(bytes(body))
        connection.sendall(request)
        said = connection.recv(1 << 16)
        connection.close()
        need(re.match(rb"HTTP/1.1 (200|4\d\d) ", said), f"a damaged body gets {said[:200]}")

    def go_on(self, kind):
        n = 0
        try:
            while time.monotonic() < self.end:
                getattr(self, kind)(n)
                n += 1
        except (SystemExit, Exception) as error:  # noqa: BLE001: all of them are reported
            with self.lock:
                self.errors.append(f"{kind}: {error!r}")


def grows(samples):
    """How much more memory there is in the last fifth than in the second one."""
    fifth = max(1, len(samples) // 5)
    return statistics.median(samples[-fifth:]) / statistics.median(samples[fifth : 2 * fifth]) - 1


def loaded(server, options):
    load = Load(server, options.seconds)
    kinds = ["conversation"] * 3 + ["same", "tenants", "vectors", "document", "vanish", "vanish", "unread", "damaged"]
    threads = [threading.Thread(target=load.go_on, args=[kind], daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    samples, start = [], time.monotonic()
    while time.monotonic() < load.end and not load.errors:
        samples.append(server.resident())
        time.sleep(1)
    for thread in threads:
        thread.join(330)
    need(not load.errors, "; ".join(load.errors))
    need(server.process.poll() is None, "the server ended")
    minutes = max(1, len(samples) // 20)
    print(f"{sum(load.statuses.values())} answers in {time.monotonic() - start:.0f} s: {dict(load.statuses)}")
    print("resident MB:", " ".join(f"{bytes / 1e6:.0f}" for bytes in samples[::minutes]))
    growth = grows(samples)
    print(f"memory of the last fifth over the second: {100 * growth:+.1f} %")
    need(options.seconds < 120 or growth < options.growth, "memory grows")


def settled(server):
    """Nothing is left, and every request is counted."""
    deadline = time.monotonic() + 60
    while True:
        numbers = server.metrics()
        left = {name: numbers[name] for name in ["longreach_requests_running", "longreach_requests_waiting"]}
        # The connection that asks is one itself.
        left["longreach_connections"] = numbers["longreach_connections"] - 1
        if not any(left.values()):
            break
        need(time.monotonic() < deadline, f"is left: {left}")
        time.sleep(0.1)
    failures = sum(value for name, value in numbers.items() if re.search(r'http_requests_total\{.*code="5', name))
    need(failures == 0, f"{failures:.0f} answers with a status of 500 and above")
    finished = {name: int(value) for name, value in numbers.items() if name.startswith("longreach_requests_finished_total{") and value}
    need(not any('"error"' in name for name in finished), f"answers failed: {finished}")
    reasons = collections.Counter()
    for name, value in finished.items():
        reasons[re.search(r'reason="(\w+)"', name)[1]] += value
    print("finished:", dict(reasons))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/longreach")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--growth", type=float, default=0.05, help="the share by which memory may grow, in runs of two minutes and more")
    parser.add_argument("--cache-dir", help="keep states on a disk as well")
    options = parser.parse_args()
    server = Server(options)
    try:
        idle(server, options)
        loaded(server, options)
        settled(server)
        server.process.terminate()
        need(server.process.wait(60) == 0, "the server does not end")
    finally:
        server.process.kill()
    print("the server holds")


if __name__ == "__main__":
    sys.exit(main())
