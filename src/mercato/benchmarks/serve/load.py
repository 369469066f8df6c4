"""A load generator: JSON over HTTP/1.1, many kept connections, in a process of its own.

In the open loop a request is sent when it is due, whatever became of those before, and its latency counts from when it
was *due*. Clients that send their next request once the last is answered (the closed loop) ask a slow server less, and
hide how long people would have queued: coordinated omission.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

import orjson

from mercato.benchmarks.serve.http_client import Address, Client

T = TypeVar("T")

TIMEOUT_S = 30.0  # after which a request has failed, and a write is not looked for any more
LEAST = 50  # requests of a closed loop: there is no 99th percentile of less
PROBE_S = 0.05  # between two looks whether a write is found

Answer = Literal["answered", "refused", "failed", "no page"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request of a plan, due `at` seconds after its beginning (of no account in the closed loop)."""

    kind: tuple[str, ...]  # what it is counted under
    body: dict[str, Any]
    at: float = 0.0
    method: str = "POST"
    path: str = "/v1/search"
    key: str = ""
    follows: int | None = None  # the place in the plan of the search whose next page this is
    probe: dict[str, Any] | None = None  # a search that finds something once this request, a write, has taken effect


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request. One that asks for the next page is not sent where there is none."""

    kind: tuple[str, ...]
    answer: Answer
    seconds: float = 0.0  # in the open loop since it was due, or since the page before was answered if that was later
    late: float = 0.0  # of these, until it was sent
    took: float = 0.0  # of these, what the server says that the search itself took
    total: int | None = None  # products that met its filters
    found: float | None = None  # seconds from a write's answer until its probe found something; infinite: never


def in_another_process(work: Callable[..., T], *given: Any) -> T:
    """`work(*given)` in a new process, so that nothing else of this one delays it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def open_loop(address: Address, *plans: Sequence[Request]) -> list[Outcome]:
    """Send each request of the plans, beside each other, when it is due; all outcomes, once the last has come."""
    return _run(_open_loop(address, plans))


def closed_loop(address: Address, plan: Sequence[Request], clients: int, seconds: float) -> tuple[list[Outcome], float]:
    """Let so many clients each send the plan's next request once their last is answered.

    Returns the outcomes of the requests begun within `seconds`, fifty at least, and the seconds until the last of them.
    """
    return _run(_closed_loop(address, plan, clients, seconds))


def own_rate(content: bytes, plan: Sequence[Request], clients: int, seconds: float) -> float:
    """Requests a second of a closed loop with a server that has `content` ready: what the generator itself can do."""
    context = get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve_ready, args=(content, there), daemon=True)
    server.start()
    try:
        outcomes, took = in_another_process(closed_loop, ("127.0.0.1", here.recv()), plan, clients, seconds)
    finally:
        server.terminate()
        server.join()
    return sum(outcome.answer == "answered" for outcome in outcomes) / took


def _serve_ready(content: bytes, tell: Connection) -> None:
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content

    class Ready(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = transport

        def data_received(self, _: bytes) -> None:  # a small request comes in one piece on loopback
            assert isinstance(self._transport, asyncio.Transport)
            self._transport.write(answer)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Ready, "127.0.0.1", 0)
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def _run(work: Coroutine[Any, Any, T]) -> T:
    # epoll wakes on whole milliseconds, a good part of what is measured here; select does not.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(work)


async def _open_loop(address: Address, plans: Sequence[Sequence[Request]]) -> list[Outcome]:
    async with Client(address) as client:
        start = time.perf_counter()

        async def keep_to(plan: Sequence[Request]) -> list[Outcome]:
            player, tasks = _Player(client, plan), []
            for place, request in enumerate(plan):
                due = start + request.at
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.create_task(player.play(place, due)))
            return await asyncio.gather(*tasks)

        return [outcome for outcomes in await asyncio.gather(*map(keep_to, plans)) for outcome in outcomes]


async def _closed_loop(
    address: Address, plan: Sequence[Request], clients: int, seconds: float
) -> tuple[list[Outcome], float]:
    async with Client(address) as client:
        player, start, places = _Player(client, plan), time.perf_counter(), iter(range(len(plan)))
        outcomes: list[Outcome] = []

        async def one() -> None:
            while (now := time.perf_counter()) < start + seconds or len(outcomes) < LEAST:
                if (place := next(places, None)) is None:
                    return
                outcomes.append(await player.play(place, now))

        await asyncio.gather(*(one() for _ in range(clients)))
        return outcomes, time.perf_counter() - start


class _Player:
    """Plays the requests of a plan, each once; a next page waits for the cursor of the page before."""

    def __init__(self, client: Client, plan: Sequence[Request]) -> None:
        self._client, self._plan = client, plan
        loop = asyncio.get_running_loop()
        followed = {request.follows for request in plan if request.follows is not None}
        self._cursors: dict[int, asyncio.Future[str | None]] = {place: loop.create_future() for place in followed}

    async def play(self, place: int, due: float) -> Outcome:
        request, cursor = self._plan[place], None
        try:
            body = request.body
            if request.follows is not None:
                before = self._cursors[request.follows]
                if not before.done():  # nobody asks for the next page before this one is there
                    await before
                    due = time.perf_counter()
                if before.result() is None:
                    return Outcome(kind=request.kind, answer="no page")
                body = body | {"cursor": before.result()}
            outcome, answered = await self._ask(request, body, due)
            cursor = answered.get("cursor")
            return outcome
        finally:
            if place in self._cursors:
                self._cursors[place].set_result(cursor)

    async def _ask(self, request: Request, body: dict[str, Any], due: float) -> tuple[Outcome, dict[str, Any]]:
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, content = await self._client.ask(request.method, request.path, orjson.dumps(body), request.key)
        except (OSError, TimeoutError):
            status, content = 0, b""
        end = time.perf_counter()
        answer: Answer = "answered" if status == 200 else "refused" if status == 503 else "failed"
        answered = orjson.loads(content) if status == 200 else {}
        found = await self._found(request.probe, end) if request.probe and status == 200 else None
        return (
            Outcome(
                kind=request.kind,
                answer=answer,
                seconds=end - due,
                late=sent - due,
                took=answered.get("took_ms", 0.0) / 1000,
                total=answered.get("total"),
                found=found,
            ),
            answered,
        )

    async def _found(self, probe: dict[str, Any], since: float) -> float:
        search = Request(kind=(), body=probe)
        while time.perf_counter() - since < TIMEOUT_S:
            _, answered = await self._ask(search, probe, time.perf_counter())
            if answered.get("hits"):
                return time.perf_counter() - since
            await asyncio.sleep(PROBE_S)
        return math.inf
