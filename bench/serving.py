"""What the server costs: the same answers by the sampler alone and through `tomoni serve`, one, 8 and 32 at a time.

    python bench/serving.py [MODEL [--record]]      --record: with a workspace, so that answers and features are kept

Both sides run with one thread for computing. Seconds are CPU seconds of the process that computes (a busy machine does
not change them much); the client is a process of its own. Latencies are wall time and need a quiet machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LONGEST = 128
REQUESTS = {1: 24, 8: 128, 32: 320}
QUESTIONS = (
    "日本の首都は？",
    "駅の始発は何時ですか。",
    "Tell me about the bakery.",
    "おすすめの店を教えて。",
    "What is near the station?",
)


def body(number: int, *, streams: bool) -> dict[str, Any]:
    return {
        "model": "bench",
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "max_tokens": LONGEST,
        "temperature": 1,
        "seed": number,
        "stream": streams,
    }


def alone(model: str, at_once: int, requests: int) -> tuple[int, float, float, list[str]]:
    """Tokens, CPU seconds, seconds, texts."""
    import torch

    from tomoni.engine.models import quiet
    from tomoni.engine.sampler import Sampling
    from tomoni.evaluate.subject import open_subject
    from tomoni.records import Message

    torch.set_num_threads(1)
    with quiet():
        subject = open_subject(model, device="cpu")
    sampler = subject.sampler()
    asked = [
        (
            subject.renderer.prompt([Message("user", QUESTIONS[number % len(QUESTIONS)])]),
            Sampling(max_new_tokens=LONGEST, temperature=1, seed=number, logprobs=True),
        )
        for number in range(requests)
    ]
    sampler.sample([asked[0][0]], asked[0][1])  # warm
    texts = [""] * requests
    tokens = running = added = 0
    begun, cpu = time.perf_counter(), time.process_time()
    while added < requests or running:
        while running < at_once and added < requests:
            sampler.add(*asked[added], str(added), draws="0")
            running, added = running + 1, added + 1
        for increment in sampler.step():
            texts[int(increment.id)] += increment.text
            tokens += increment.token is not None
            running -= increment.finished is not None
    return tokens, time.process_time() - cpu, time.perf_counter() - begun, texts


class Client:
    """As little work as an HTTP client can do: one connection a stream, kept alive."""

    def __init__(self, port: int, *, streams: bool) -> None:
        self.port, self.streams = port, streams
        self.texts: dict[int, str] = {}
        self.firsts: list[float] = []
        self.numbers: list[int] = []

    async def run(self, at_once: int, requests: int) -> float:
        self.numbers = list(reversed(range(requests)))
        begun = time.perf_counter()
        await asyncio.gather(*(self._stream() for _ in range(at_once)))
        return time.perf_counter() - begun

    async def _stream(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while self.numbers:
            number = self.numbers.pop()
            data = json.dumps(body(number, streams=self.streams)).encode()
            begun = time.perf_counter()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(data) + data
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            self.texts[number] = (
                (await self._events(reader, begun)) if self.streams else await self._whole(reader, head)
            )
        writer.close()

    async def _whole(self, reader: asyncio.StreamReader, head: bytes) -> str:
        size = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split()[1])
        return str(json.loads(await reader.readexactly(size))["choices"][0]["message"]["content"])

    async def _events(self, reader: asyncio.StreamReader, begun: float) -> str:
        parts: list[bytes] = []
        while size := int(await reader.readline(), 16):
            if not parts:
                self.firsts.append(time.perf_counter() - begun)
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        lines = [line for line in b"".join(parts).split(b"\n\n") if line.startswith(b"data: {")]
        return "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines)


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def served(port: int, pid: int, at_once: int, requests: int, *, streams: bool) -> tuple[float, float, Client]:
    client = Client(port, streams=streams)
    before = cpu_of(pid)
    seconds = asyncio.run(client.run(at_once, requests))
    return cpu_of(pid) - before, seconds, client


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "bundled:small"
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        words = ["serve", model, "--name", "bench", "--port", "0", "--port-file", str(port_file), "--threads", "1"]
        words += ["--workspace", str(Path(folder) / "w")] if "--record" in sys.argv else []
        (Path(folder) / "w").mkdir()
        log = (Path(folder) / "log").open("wb")
        server = subprocess.Popen([sys.executable, "-m", "tomoni", *words], stdout=log, stderr=log)
        try:
            while not port_file.exists():
                time.sleep(0.1)
            port = int(port_file.read_text())
            served(port, server.pid, 1, 4, streams=True)  # warm
            print("| at once | side | tokens | CPU s | tokens / CPU s | seconds | first token, ms: median, p95 |")
            print("|---|---|---|---|---|---|---|")
            for at_once, requests in REQUESTS.items():
                tokens, cpu, seconds, texts = alone(model, at_once, requests)
                print(f"| {at_once} | sampler alone | {tokens:,} | {cpu:.2f} | {tokens / cpu:,.0f} | {seconds:.2f} | |")
                for streams in (False, True):
                    cpu, seconds, client = served(port, server.pid, at_once, requests, streams=streams)
                    same = sum(client.texts[number] == text for number, text in enumerate(texts))
                    late = sorted(1000 * first for first in client.firsts)
                    told = f"{statistics.median(late):.0f}, {late[int(0.95 * len(late))]:.0f}" if late else ""
                    side = f"served, {'streamed' if streams else 'whole'} ({same} of {requests} texts the same)"
                    print(
                        f"| {at_once} | {side} | {tokens:,} | {cpu:.2f} | {tokens / cpu:,.0f} | {seconds:.2f} | {told} |"
                    )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
            log.close()


if __name__ == "__main__":
    main()
