"""Loads a server of OpenAI's API: longreach serve, llama-server or any other.

    python bench/peers/serve.py http://127.0.0.1:8080/v1 --tokens 1024 --streams 16

Measured, each as the median of --rounds with the least and the most:

- cold: seconds to the first token of a prompt that was never sent before;
- warm: the same of the next prompt, which has another end;
- one, many: tokens per second of one stream, and of --streams at once together;
- gap: the longest time between two tokens of a stream alone, and while a prompt of --long tokens is read.

A prompt of N tokens is N short words, most of which are one token; the number that the server counted is printed. Only the standard library is needed.
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse

WORDS = "the of and to in is that it was for on are with as his they at be this from have or by one had not but what all were".split()


class Stream:
    """A request and the times at which its pieces came."""

    def __init__(self, options, prompt, tokens):
        self.times, self.usage = [], {}
        where = urllib.parse.urlsplit(options.base)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        body["ignore_eos"] = True
        if options.model:
            body["model"] = options.model
        headers = {"content-type": "application/json", "authorization": f"Bearer {options.key}"}
        connection = kind(where.netloc, timeout=3600)
        self.start = time.perf_counter()
        connection.request("POST", where.path.rstrip("/") + "/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {response.read(1000).decode(errors='replace')}")
        for line in response:
            now = time.perf_counter()
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            data = json.loads(line[6:])
            if "error" in data:
                raise SystemExit(f"the stream failed: {data['error']}")
            self.usage = data.get("usage") or self.usage
            # A piece may have no text: its token ends within a character.
            if data.get("choices"):
                self.times.append(now)
        connection.close()

    def first(self):
        return self.times[0] - self.start

    def written(self):
        return self.usage.get("completion_tokens") or len(self.times)

    def gap(self, since=0.0, until=float("inf")):
        pairs = zip(self.times, self.times[1:])
        return max((b - a for a, b in pairs if b >= since and a <= until), default=0.0)


def text(n, seed):
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(n))


def together(options, n, tokens):
    """The streams of n requests that are sent at once."""
    streams = [None] * n

    def one(i):
        streams[i] = Stream(options, text(8, random.random()), tokens)

    threads = [threading.Thread(target=one, args=[i]) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if None in streams:
        raise SystemExit("a stream failed")
    return streams


def rate(streams):
    seconds = max(stream.times[-1] for stream in streams) - min(stream.start for stream in streams)
    return sum(stream.written() for stream in streams) / seconds


def gaps(options):
    """The longest gap of a stream alone, and of one while a long prompt is read."""
    alone = Stream(options, text(8, random.random()), options.write).gap()
    running = []
    thread = threading.Thread(target=lambda: running.append(Stream(options, text(8, random.random()), options.write * 8)))
    thread.start()
    time.sleep(options.before)
    reading = Stream(options, text(options.long, random.random()), 1)
    thread.join()
    if not running or running[0].times[-1] < reading.times[0]:
        print("  note: the stream ended before the long prompt was read: raise --write")
    return alone, running[0].gap(reading.start, reading.times[0])


def show(name, values, unit):
    print(f"{name:28} {statistics.median(values):10.4f} {unit}  ({min(values):.4f} to {max(values):.4f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="address, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", help="the model, if the server wants a name")
    parser.add_argument("--key", default="none")
    parser.add_argument("--tokens", type=int, default=1024, help="words of the prompts for the time to the first token")
    parser.add_argument("--long", type=int, default=16384, help="words of the prompt that is read beside a stream")
    parser.add_argument("--write", type=int, default=128, help="tokens of each stream")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=float, default=0.5, help="seconds that a stream runs before the long prompt is sent")
    options = parser.parse_args()
    Stream(options, text(8, 0), 4)  # a first request may load something
    cold, warm = [], []
    for _ in range(options.rounds):
        prompt = text(options.tokens, random.random())
        first = Stream(options, prompt, 1)
        second = Stream(options, prompt + " and then", 1)
        cold.append(first.first())
        warm.append(second.first())
    print(f"a prompt has {first.usage.get('prompt_tokens')} tokens, of the second {(second.usage.get('prompt_tokens_details') or {}).get('cached_tokens')} were cached")
    show("first token, cold", cold, "s")
    show("first token, warm", warm, "s")
    show("one stream", [rate(together(options, 1, options.write)) for _ in range(options.rounds)], "tokens/s")
    show(f"{options.streams} streams", [rate(together(options, options.streams, options.write)) for _ in range(options.rounds)], "tokens/s")
    alone, beside = zip(*(gaps(options) for _ in range(options.rounds)))
    show("longest gap alone", alone, "s")
    show("longest gap while reading", beside, "s")


if __name__ == "__main__":
    main()
