"""Runs in a pod, in the operator's image: an operator behind a proxy that can stop it at any single effect.

Everything that the operator asks of API server and cloud passes here. A request that changes something is an *effect*, and has a name that is the same
in every run (`advance Draining`, `annotate stop`, `cloud TerminateInstanceInAutoScalingGroup`). A test arms *halts* by those names over HTTP.

The operator is forked from a process that has imported it already, so that it is back a moment after it was killed; it shares nothing else with
the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
from aiohttp import web

Json = dict[str, Any]

API_PORT, CLOUD_PORT, CONTROL_PORT = 8001, 8002, 9000
ACCOUNT = Path("/var/run/account")
SUFFIXES = {"pods": r"-[a-z0-9]{5}$", "poddisruptionbudgets": "-checkpoint$"}
"""What the names of a run's objects have after the run's own."""
KUBECONFIG = Path("/tmp/kubeconfig")  # noqa: S108 - the pod's own
HOP_BY_HOP = {
    "connection",
    "transfer-encoding",
    "keep-alive",
    "host",
    "authorization",
    "accept-encoding",
    "content-length",
    "content-encoding",
}

MEMORY = {"rss_bytes": "VmRSS", "peak_bytes": "VmHWM"}

# Forked for every start; the fork has one thread and no open connection.
ZYGOTE = """
import os, sys
from trainingrun_operator import settings
from trainingrun_operator.controller import main
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.close(0)
        os.dup2(2, 1)
        os._exit(main.run(settings.load()))
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(status, flush=True)
"""


class Operator:
    """The process that is being stopped."""

    def __init__(self) -> None:
        self.pid = 0
        self.starts = 0
        self.wanted = True
        self.over = asyncio.Event()

    async def run(self) -> None:
        """Start it, and start it again whenever it has ended."""
        environ = os.environ | {
            "KUBECONFIG": str(KUBECONFIG),
            "AWS_ENDPOINT_URL_AUTO_SCALING": f"http://127.0.0.1:{CLOUD_PORT}",
            "AWS_ENDPOINT_URL_EC2": f"http://127.0.0.1:{CLOUD_PORT}",
        }
        zygote = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ZYGOTE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        while True:
            if not self.wanted:
                await asyncio.sleep(0.05)
                continue
            self.over.clear()
            zygote.stdin.write(b"start\n")
            self.pid = int(await zygote.stdout.readline())
            self.starts += 1
            status = int(await zygote.stdout.readline())
            self.pid = 0
            self.over.set()
            say(f"operator {self.starts} ended with {os.waitstatus_to_exitcode(status)}")

    def signal(self, number: int) -> None:
        """Send it a signal; nothing, if it is between two lives."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(signal.SIGKILL)
        await self.over.wait()


class Proxy:
    """Forwards; notes effects; halts where it was told to."""

    def __init__(self, operator: Operator, session: aiohttp.ClientSession) -> None:
        self.operator, self.session = operator, session
        self.effects: list[Json] = []
        self.halts: list[Json] = []
        self.frozen: dict[int, asyncio.Event] = {}
        self.fault: Json = {}
        self.requests = 0

    async def api(self, request: web.Request) -> web.StreamResponse:
        token = (ACCOUNT / "token").read_text().strip()
        return await self.forward(request, "https://kubernetes.default.svc", {"Authorization": f"Bearer {token}"})

    async def cloud(self, request: web.Request) -> web.StreamResponse:
        keep = {"Authorization": request.headers["Authorization"]} if "Authorization" in request.headers else {}
        return await self.forward(request, os.environ["CLOUD"], keep)

    async def forward(self, request: web.Request, upstream: str, headers: Json) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        if upstream != os.environ["CLOUD"] and (refusal := await self.faulty(request)) is not None:
            return refusal
        effect = named(request.method, request.path, request.query_string, body)
        halt = self.halt_for(effect)
        if effect is not None:
            effect |= {"at": time.time(), "life": self.operator.starts, "method": request.method, "path": request.path}
            self.effects.append(effect)
        if halt is not None and halt["side"] == "before":
            await self.do(halt, effect)
            if halt["do"] == "kill":
                raise aiohttp.ServerDisconnectedError
        kept = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP} | headers
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.request(
            request.method,
            upstream + request.raw_path,
            data=body or None,
            headers=kept,
            timeout=timeout,
            allow_redirects=False,
        ) as answer:
            if "watch=true" in request.query_string:
                return await self.stream(request, answer)
            content = await answer.read()
            if effect is not None:
                effect["status"] = answer.status
        if halt is not None and halt["side"] == "after":
            await self.do(halt, effect)
        passed = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
        return web.Response(status=answer.status, body=content, headers=passed)

    async def stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        passed = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=passed)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            async for chunk in answer.content.iter_any():
                if self.fault.get("what") == "away":
                    break
                if self.fault.get("what") == "silent":
                    continue
                await response.write(chunk)
        return response

    async def faulty(self, request: web.Request) -> web.StreamResponse | None:
        """What the API server answers instead, while something is wrong with it."""
        watch = "watch=true" in request.query_string
        match self.fault.get("what"):
            case "away":
                if request.transport is not None:
                    request.transport.abort()
                raise aiohttp.ServerDisconnectedError
            case "gone" if watch:
                status = {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "Expired",
                    "code": 410,
                    "message": "too old",
                }
                return web.json_response({"type": "ERROR", "object": status})
            case "busy" if not watch and self.requests % 5 == 0:
                status = {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "TooManyRequests",
                    "code": 429,
                    "message": "busy",
                }
                return web.json_response(status, status=429, headers={"Retry-After": "1"})
            case _:
                return None

    def halt_for(self, effect: Json | None) -> Json | None:
        """The first halt that is due at this effect; others count it as one that they let pass."""
        due: Json | None = None
        if effect is None:
            return None
        for halt in self.halts:
            fits = re.fullmatch(halt["effect"], effect["effect"]) and re.fullmatch(halt["run"], effect["run"])
            if not fits or halt.get("done"):
                continue
            if halt.get("skip"):
                halt["skip"] -= 1
            else:
                due = due or halt
        if due is not None:
            due["done"] = True
        return due

    async def do(self, halt: Json, effect: Json | None) -> None:
        assert effect is not None
        say(f"{halt['do']} {halt['side']} {effect['effect']} of {effect['run']}")
        effect["halted"] = halt["side"]
        if halt["do"] == "kill":
            await self.operator.kill()
            return
        self.operator.signal(signal.SIGSTOP)
        resume = self.frozen[halt["id"]] = asyncio.Event()
        await resume.wait()
        self.operator.signal(signal.SIGCONT)

    # -- what a test may ask ---------------------------------------------------------------------------------------

    async def state(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"effects": self.effects, "halts": self.halts, "starts": self.operator.starts, "frozen": list(self.frozen)}
        )

    async def usage(self, _: web.Request) -> web.Response:
        """Memory and processor time of the operator's process, and how much it has asked for."""
        return web.json_response({**usage_of(self.operator.pid), "requests": self.requests})

    async def arm(self, request: web.Request) -> web.Response:
        """`{run, effect, side: before|after, do: kill|freeze}`; answers with its id."""
        halt = await request.json()
        halt["id"] = len(self.halts)
        self.halts.append(halt)
        return web.json_response(halt)

    async def disarm(self, request: web.Request) -> web.Response:
        self.halts[(await request.json())["id"]]["done"] = True
        return web.json_response({})

    async def thaw(self, request: web.Request) -> web.Response:
        self.frozen[(await request.json())["id"]].set()
        return web.json_response({})

    async def break_api(self, request: web.Request) -> web.Response:
        """`{what: away|gone|busy|silent}`, or `{}` to mend it."""
        self.fault = await request.json()
        return web.json_response({})

    async def operator_process(self, request: web.Request) -> web.Response:
        """`{signal: KILL, wanted: true}`. Answers when it has ended, where it is not wanted any more."""
        asked = await request.json()
        self.operator.wanted = asked.get("wanted", True)
        self.operator.signal(signal.Signals[f"SIG{asked['signal']}"])
        if not self.operator.wanted:
            await self.operator.over.wait()
        return web.json_response({})

    async def ask_operator(self, request: web.Request) -> web.Response:
        """What the operator answers on its own port."""
        url = f"http://127.0.0.1:{os.environ['TRAININGRUN_PORT']}/{request.match_info['page']}"
        try:
            async with self.session.get(url) as answer:
                return web.Response(status=answer.status, text=await answer.text())
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))


def named(method: str, path: str, query: str, body: bytes) -> Json | None:
    """Run and name of what a request changes; None for what changes nothing about a run."""
    if method in ("GET", "HEAD") or "dryRun" in query:
        return None
    if path == "/":
        action = parse_qs(body.decode()).get("Action", ["?"])[0]
        return None if action.startswith("Describe") else {"run": "", "effect": f"cloud {action}"}
    found = re.fullmatch(
        r"/apis?/(?:[^/]+/)?v[^/]+/(?:namespaces/(?P<ns>[^/]+)/)?(?P<kind>[^/]+)(?:/(?P<name>[^/]+))?(?P<sub>/.*)?",
        path,
    )
    # The loss curve is written beside the looks, by nobody's decision: no part of a stop, and at no fixed place among its effects.
    if found is None or found["kind"] in {"leases", "configmaps"}:
        return None
    said = json.loads(body or b"{}")
    name = found["name"] or (said.get("metadata") or {}).get("name", "")
    match found["kind"]:
        case "trainingruns":
            what = of_run(found["sub"] or "", said)
        case "events":
            name, what = said["involvedObject"]["name"], f"event {said['reason']}"
        case "pods":
            what = (
                f"annotate {next(iter(said['metadata']['annotations'])).partition('/')[2]}"
                if method == "PATCH"
                else "delete pod"
            )
        case "nodes":
            ours = any(t["key"].startswith("trainingrun.dev/") for t in (said.get("spec") or {}).get("taints", ()))
            name, what = "", ("delete node" if method == "DELETE" else "taint node" if ours else "untaint node")
        case kind:
            what = " ".join([method.lower(), kind, *(patched(said) if method == "PATCH" else ())])
    run = re.sub(SUFFIXES.get(found["kind"], "$"), "", name)
    return {"run": run, "effect": what}


def patched(said: Any) -> list[str]:
    """The fields that a merge patch or a JSON patch writes."""
    if isinstance(said, list):
        return sorted(op["path"].rpartition("/")[2] for op in said if op["op"] != "test")
    return sorted({*(said.get("spec") or {}), *(said.get("metadata") or {})} - {"uid"})


def of_run(sub: str, said: Any) -> str:
    """Of a write to a TrainingRun."""
    if isinstance(said, dict):
        return f"observe {(said.get('status') or {}).get('phase')}" if sub else "patch run"
    written = {op["path"]: op.get("value") for op in said if op["op"] != "test"}
    if "/status/terminationStatus" in written:
        return "begin"
    if "/status/termination" in written:
        return f"advance {written['/status/termination']['phase']}"
    if "/status/nodes" in written:
        return f"record nodes {' '.join(sorted({node['phase'] for node in written['/status/nodes']}))}"
    if "/metadata/finalizers" in written:
        return "add finalizer" if written["/metadata/finalizers"] else "remove finalizer"
    return f"patch {' '.join(written)}"


def usage_of(pid: int) -> Json:
    """What the kernel says of a process."""
    said = Path(f"/proc/{pid}/status").read_text()
    kilobytes = dict(re.findall(r"(\w+):\s+(\d+) kB", said))
    memory = {key: int(kilobytes[name]) * 1024 for key, name in MEMORY.items()}
    # utime and stime are the 14th and 15th of all fields; the second is the name, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {**memory, "cpu_seconds": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")}


def say(line: str) -> None:
    """Into the pod's log."""
    sys.stderr.write(f"--- {line}\n")
    sys.stderr.flush()


async def serve(routes: list[web.RouteDef], host: str, port: int) -> None:
    """Listen."""
    app = web.Application(client_max_size=16 * 2**20)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()


def write_kubeconfig() -> None:
    """The way to the API server leads through the proxy, which knows the token."""
    config = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{API_PORT}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "users": [{"name": "c", "user": {}}],
    }
    KUBECONFIG.write_text(json.dumps(config))


async def main() -> None:
    """Until the pod is deleted."""
    write_kubeconfig()
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, limit=0), auto_decompress=True
    ) as session:
        operator = Operator()
        proxy = Proxy(operator, session)
        await serve([web.route("*", "/{any:.*}", proxy.api)], "127.0.0.1", API_PORT)
        await serve([web.route("*", "/{any:.*}", proxy.cloud)], "127.0.0.1", CLOUD_PORT)
        control = [
            web.get("/state", proxy.state),
            web.get("/usage", proxy.usage),
            web.post("/halt", proxy.arm),
            web.post("/disarm", proxy.disarm),
            web.post("/thaw", proxy.thaw),
            web.post("/fault", proxy.break_api),
            web.post("/operator", proxy.operator_process),
            web.get("/ask/{page}", proxy.ask_operator),
        ]
        await serve(control, "0.0.0.0", CONTROL_PORT)  # noqa: S104 - the pod's own network
        await operator.run()


asyncio.run(main())
