"""Starts a server of OpenAI's wire format, asks it by several streams at once, and prints one JSON line.

usage: serving.py hone HONE --model DIR [options]
       serving.py llama PYTHON --model FILE.gguf [options]      the server that comes with llama-cpp-python

--streams N     connections, each with one request: all are sent at once, and answers are streamed, greedily
--length L      tokens of a prompt, other ones for each stream and run
--new N         tokens of an answer
--steps R       runs after one of warm-up
--first         milliseconds to the first piece of text, the median of the streams. Prompts are texts, of about L tokens, since llama.cpp's server
                takes no others. Without it (hone only): new tokens of all streams a second, from the first request sent to the last answer's end;
                prompts are exactly L random tokens, and the token that would end an answer is forbidden, so that each has N
"""
import argparse
import contextlib
import functools
import json
import pathlib
import random
import resource
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

READY = 120  # seconds a server may take to load


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def server(a):
    """The address of the running server, and its process."""
    port = free_port()
    command = {
        "hone": [a.program, "serve", "--model", f"model={a.model}", "--port", str(port), "--threads", str(a.threads)],
        "llama": [a.program, "-m", "llama_cpp.server", "--model", a.model, "--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(a.context),
                  "--n_threads", str(a.threads), "--n_threads_batch", str(a.threads), "--verbose", "false"],
    }[a.server]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL) as child:
        try:
            wait_until_ready(child, port, said)
            yield ("127.0.0.1", port), child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


def wait_until_ready(child, port, said):
    end = time.monotonic() + READY
    while time.monotonic() < end and child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as s:
            s.sendall(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            if s.recv(64).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.05)
    said.seek(0)
    raise SystemExit(f"the server does not answer: {said.read()[-500:]}")


def random_tokens(a, count, seed):
    vocabulary = json.loads((pathlib.Path(a.model) / "config.json").read_text())["vocab_size"]
    draw = random.Random(seed)
    return [[draw.randrange(3, vocabulary) for _ in range(a.length)] for _ in range(count)]


def ends(a):
    """The tokens that end an answer."""
    found = json.loads((pathlib.Path(a.model) / "config.json").read_text()).get("eos_token_id")
    return found if isinstance(found, list) else [] if found is None else [found]


def texts(a, count, seed):
    """Prompts of about a.length tokens: pieces of a file of texts that the tokenizer was made for."""
    rows = rows_of(a.data)
    draw = random.Random(seed)
    found = []
    while len(found) < count:
        text = draw.choice(rows)
        start = draw.randrange(max(1, len(text) - 8 * a.length))
        # A token of these texts is about three and a half characters
        found.append(text[start:start + int(3.5 * a.length)])
    return found


@functools.cache
def rows_of(path):
    return [json.loads(line)["text"] for line in pathlib.Path(path).read_text().splitlines()]


def request(a, prompt):
    asked = {"model": "model", "prompt": prompt, "max_tokens": a.new, "temperature": 0, "stream": True}
    if a.server == "hone":
        asked["stream_options"] = {"include_usage": True}
    if not isinstance(prompt, str):
        asked["logit_bias"] = {str(token): -100 for token in ends(a)}
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


def ask(a, address, prompts):
    """Sends all requests; of each stream the seconds to its first text and to its end, and all that came."""
    start = time.perf_counter()
    selector = selectors.DefaultSelector()
    streams = []
    for prompt in prompts:
        s = socket.create_connection(address)
        s.sendall(request(a, prompt))
        stream = {"socket": s, "parts": [], "first": None, "end": None}
        selector.register(s, selectors.EVENT_READ, stream)
        streams.append(stream)
    while selector.get_map():
        for key, _ in selector.select():
            stream, part = key.data, key.fileobj.recv(1 << 16)
            now = time.perf_counter() - start
            if not part:
                stream["end"] = now
                selector.unregister(key.fileobj)
                key.fileobj.close()
                continue
            stream["parts"].append(part)
            if stream["first"] is None and b'"text":' in part and has_text(b"".join(stream["parts"])):
                stream["first"] = now
    for stream in streams:
        stream["all"] = b"".join(stream["parts"])
        if not stream["all"].startswith(b"HTTP/1.1 200") or b"[DONE]" not in stream["all"]:
            raise SystemExit(f"an answer is not whole: {stream['all'][:300]!r}")
    return streams


def events(received):
    """The JSON objects of a stream as far as it came."""
    for line in received.splitlines():
        if line.startswith(b"data: {"):
            with contextlib.suppress(ValueError):
                yield json.loads(line[6:])


def has_text(received):
    return any(choice.get("text") for event in events(received) for choice in event.get("choices", []))


def tokens(received):
    """New tokens of an answer, as the server counts them."""
    return sum(event["usage"]["completion_tokens"] for event in events(received) if event.get("usage"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=["hone", "llama"])
    parser.add_argument("program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", help="JSON lines with texts, for --first")
    for name, default in (("streams", 1), ("length", 64), ("new", 64), ("steps", 3), ("threads", 2), ("context", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--first", action="store_true")
    a = parser.parse_args()
    if a.first != bool(a.data) or (a.server == "llama" and not a.first):
        parser.error("--first needs --data, and llama.cpp's server is asked with --first alone")
    runs = []
    with server(a) as (address, _):
        for run in range(a.steps + 1):
            streams = ask(a, address, (texts if a.first else random_tokens)(a, a.streams, run))
            if a.first:
                firsts = [stream["first"] for stream in streams if stream["first"] is not None]
                runs.append(1000 * statistics.median(firsts))
            else:
                made = [tokens(stream["all"]) for stream in streams]
                if made != [a.new] * a.streams:
                    raise SystemExit(f"answers of {made} tokens; expected {a.new} each")
                runs.append(sum(made) / max(stream["end"] for stream in streams))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    runs = runs[1:]
    print(json.dumps({"value": statistics.median(runs), "unit": "ms" if a.first else "tokens/s", "runs": runs, "peak_bytes": peak}))


if __name__ == "__main__":
    sys.exit(main())
