"""Keeps `hone serve` under load for minutes: streams that begin, end and are abandoned at random; then says what came of it, as one JSON line.

usage: soak.py HONE --model DIR --data FILE [--minutes 20] [--streams 64] [--leave 0.4]

Every answer that is not abandoned has to be whole: status 200, [DONE] at its end, as many tokens as were asked for or a stop. The memory
of the server is read every ten seconds; `growth` is the mean of the last fifth over that of the second one (the first fifth warms up).
Ends with 1 where an answer was not whole, where an answer to one prompt differed from the first one, or where the server has places left
in use when nobody asks any more.
"""
import argparse
import json
import pathlib
import random
import re
import selectors
import socket
import statistics
import sys
import time

import serving

FIXED = 8  # prompts that come back, whose answers have to be the same each time


def rss(child):
    found = re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{child}/status").read_text())
    return 1024 * int(found[1])


def text_of(received):
    return "".join(choice.get("text", "") for event in serving.events(received) for choice in event.get("choices", []))


def finish_of(received):
    reasons = [choice.get("finish_reason") for event in serving.events(received) for choice in event.get("choices", [])]
    return next((reason for reason in reversed(reasons) if reason), None)


class Soak:
    def __init__(self, a, address):
        self.a, self.address, self.draw = a, address, random.Random(1)
        self.selector = selectors.DefaultSelector()
        self.known, self.faults = {}, []
        self.whole = self.left = self.tokens = 0
        self.prompts = serving.texts(a, FIXED, 0)

    def begin(self):
        which = self.draw.randrange(2 * FIXED)
        prompt = self.prompts[which] if which < FIXED else serving.texts(self.a, 1, self.draw.random())[0]
        s = socket.create_connection(self.address)
        s.sendall(serving.request(self.a, prompt))
        # Bytes after which it leaves: at once, in the middle, or never
        leaves = self.draw.choice([0, self.draw.randrange(1, 8000)]) if self.draw.random() < self.a.leave else None
        stream = {"which": which if which < FIXED else None, "received": bytearray(), "leaves": leaves}
        if leaves == 0:
            s.close()
            self.left += 1
            return
        self.selector.register(s, selectors.EVENT_READ, stream)

    def read(self, key):
        s, stream = key.fileobj, key.data
        try:
            part = s.recv(1 << 16)
        except OSError as error:
            part = b""
            self.faults.append(str(error))
        stream["received"] += part
        leaves = stream["leaves"] is not None and len(stream["received"]) >= stream["leaves"]
        if part and not leaves:
            return
        self.selector.unregister(s)
        s.close()
        if part:
            self.left += 1
        else:
            self.end(stream)

    def end(self, stream):
        received = bytes(stream["received"])
        if not received.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in received:
            self.faults.append(received[-300:].decode(errors="replace"))
            return
        made = serving.tokens(received)
        if made != self.a.new and finish_of(received) != "stop":
            self.faults.append(f"an answer of {made} tokens ends without a stop; expected {self.a.new}")
        self.whole += 1
        self.tokens += made
        if stream["which"] is not None and self.known.setdefault(stream["which"], text_of(received)) != text_of(received):
            self.faults.append(f"prompt {stream['which']} was answered otherwise than the first time")

    def run(self, until):
        while time.monotonic() < until and not self.faults:
            while len(self.selector.get_map()) < self.a.streams:
                self.begin()
            for key, _ in self.selector.select(0.1):
                self.read(key)
            yield
        for key in list(self.selector.get_map().values()):
            self.selector.unregister(key.fileobj)
            key.fileobj.close()
            self.left += 1


def places(address):
    """Sequences that run or wait, by the server's own count."""
    with socket.create_connection(address) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        received = b""
        while part := s.recv(1 << 16):
            received += part
    found = re.findall(rb"^(hone_\w+_(?:running|waiting))(?:\{[^}]*\})? ([0-9.]+)", received, re.M)
    return {name.decode(): float(value) for name, value in found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--leave", type=float, default=0.4, help="share of the streams that are abandoned")
    for name, default in (("streams", 64), ("length", 64), ("new", 96), ("threads", 2), ("context", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    a.server, memory = "hone", []
    with serving.server(a) as (address, child):
        soak = Soak(a, address)
        start = time.monotonic()
        for _ in soak.run(start + 60 * a.minutes):
            if time.monotonic() - start >= 10 * len(memory):
                memory.append(rss(child.pid))
        end = time.monotonic() + 30
        while any(places(address).values()) and time.monotonic() < end:
            time.sleep(0.5)
        in_use = places(address)
    fifth = max(1, len(memory) // 5)
    growth = statistics.mean(memory[-fifth:]) / statistics.mean(memory[fifth:2 * fifth] or memory) - 1
    print(json.dumps({"minutes": a.minutes, "whole": soak.whole, "abandoned": soak.left, "tokens": soak.tokens, "faults": soak.faults[:5], "memory": memory,
                      "growth": round(growth, 4), "in_use": in_use}))
    return 1 if soak.faults or any(in_use.values()) or not in_use else 0


if __name__ == "__main__":
    sys.exit(main())
