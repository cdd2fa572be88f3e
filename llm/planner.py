"""``ModelPlanner``: the agent's side of the model. It starts the worker when a plan is wanted, and ends it when it is slow, idle or dead.

The caller's event loop never waits for the model itself: everything here is pipes to another process. Whatever that process does, the
worst that comes of it is one ``PlannerFailed``.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import cloudisense
from cloudisense.agent.plan import PlanRequest, Ranking
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.llm.messages import CANDIDATES_MAX, HEADER_BYTES, MESSAGE_BYTES_MAX, Failure, frame, frame_length, read_reply

MEMORY_BASE_MB = 768
"""Address space for interpreter, libraries, stacks, context and buffers; the file comes on top. SmolLM2 takes 370 to 500 MB in all."""
WAITING_MAX = 4
"""Requests that may wait for the one worker; more are refused at once."""
STDERR_BYTES_MAX = 4096

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHASHSEED", "TMPDIR")


class PlannerFailed(Exception):
    """The model gave no plan. ``reason`` is one line for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelPlanner:
    """Plans from the model at ``model_path``, in a worker process that is there only while it is needed.

    ``threads``: all cores but one when ``None``. ``memory_mb``: limit on the worker's address space; from the file's size when ``None``.
    ``timeout_s``: for one plan, waiting and loading included. ``idle_s``: how long a loaded model stays; 0 unloads after every answer.
    ``loads`` counts the workers that were started.
    """

    def __init__(
        self, model_path: Path, threads: int | None = None, memory_mb: int | None = None, timeout_s: float = 60, idle_s: float = 60
    ) -> None:
        self.model_path = model_path
        self.loads = 0
        self._threads = threads
        self._memory_mb = memory_mb
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._worker: _Worker | None = None
        self._unloading: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def loaded(self) -> bool:
        """Whether a worker is running now."""
        return self._worker is not None and self._worker.process.returncode is None

    @property
    def pid(self) -> int | None:
        """The running worker's process id."""
        return self._worker.process.pid if self._worker is not None and self.loaded else None

    async def rank(self, request: PlanRequest) -> Ranking:
        """The model's ranking of ``request.candidates``. Raises ``PlannerFailed`` for every failure, nothing else (but cancellation)."""
        if not 0 < len(request.candidates) <= CANDIDATES_MAX:
            raise PlannerFailed(f"{len(request.candidates)} candidates: the model ranks 1 to {CANDIDATES_MAX}")
        message = frame(request)
        if len(message) > MESSAGE_BYTES_MAX:
            raise PlannerFailed(f"the request is too long for the model: {len(message)} bytes")
        if self._waiting > WAITING_MAX:
            raise PlannerFailed(f"the model is busy: {WAITING_MAX} requests wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._turn:
                    return await self._exchange(message, len(request.candidates))
        except TimeoutError:
            raise PlannerFailed(f"the model gave no answer within {self._timeout_s:g} s") from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the worker. Later requests are refused."""
        self._closed = True
        await self._unload()

    async def _exchange(self, message: bytes, candidates: int) -> Ranking:
        """One request and its reply. Whatever goes wrong, cancellation included, the worker does not outlive it half-answered."""
        if self._unloading is not None:
            self._unloading.cancel()
            self._unloading = None
        try:
            worker = await self._started()
            reply = read_reply(await worker.ask(message), candidates)
        except RemoteProtocolError as error:
            await self._unload()
            raise PlannerFailed(f"the model's worker answered nonsense: {error.reason}") from None
        except (OSError, EOFError) as error:
            raise PlannerFailed(await self._epitaph(error)) from None
        except BaseException:
            self._kill()
            raise
        if isinstance(reply, Failure):
            await self._unload()
            raise PlannerFailed(reply.reason)
        if self._idle_s <= 0:
            await self._unload()
        else:
            self._unloading = asyncio.get_running_loop().call_later(self._idle_s, self._kill)
        return reply.ranking

    async def _started(self) -> "_Worker":
        if self._closed:
            raise PlannerFailed("the model planner is closed")
        if self._worker is None or not self.loaded:
            await self._unload()
            self._worker = await _Worker.start(self._command())
            self.loads += 1
        return self._worker

    def _command(self) -> list[str]:
        memory_mb = self._memory_mb or MEMORY_BASE_MB + 2 * (self.model_path.stat().st_size >> 20)
        threads = [] if self._threads is None else ["--threads", str(self._threads)]
        # -P: the current folder is no place to import from.
        command = [sys.executable, "-P", "-m", "cloudisense.llm.worker", "--model", str(self.model_path), *threads]
        return [*command, "--memory-mb", str(memory_mb), "--parent", str(os.getpid())]

    async def _epitaph(self, error: Exception) -> str:
        """What to tell of a worker that is gone, or of one that never started."""
        worker = self._worker
        await self._unload()
        if worker is None:
            return f"the model's worker did not start: {error}"
        status = worker.process.returncode
        how = f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"exit status {status}"
        said = worker.last_words()
        return f"the model's worker died ({how})" + (f": {said}" if said else "")

    def _kill(self) -> None:
        """End the worker now, without waiting; a task reaps it. The next request gets a new one."""
        if self._unloading is not None:
            self._unloading.cancel()
            self._unloading = None
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            task = asyncio.get_running_loop().create_task(worker.reap())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _unload(self) -> None:
        """End the worker and wait until it is gone."""
        self._kill()
        if self._ending:
            await asyncio.wait(set(self._ending))


class _Worker:
    """One worker process and what it wrote to stderr."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._stderr = bytearray()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    @staticmethod
    async def start(command: list[str]) -> "_Worker":
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=_environment(), start_new_session=True,  # the terminal's ^C is for the agent to handle
        )  # fmt: skip
        return _Worker(process)

    async def ask(self, message: bytes) -> bytes:
        """Send one framed message, read one. ``EOFError`` or ``OSError`` when the process is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(message)
        await self.process.stdin.drain()
        header = await self.process.stdout.readexactly(HEADER_BYTES)
        return await self.process.stdout.readexactly(frame_length(header))

    def kill(self) -> None:
        """By its own pid. It has nothing to lose: its state is the model's file."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                # Not process.kill(): it polls first, and so takes the exit status away from asyncio, which then reports 255.
                os.kill(self.process.pid, signal.SIGKILL)

    async def reap(self) -> None:
        """Wait until it is gone and its pipes are closed."""
        await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self._listening

    def last_words(self) -> str:
        """The last line on stderr, made safe to show."""
        lines = [line for line in self._stderr.decode(errors="replace").splitlines() if line.strip()]
        return "".join(ch for ch in lines[-1] if ch.isprintable())[:200] if lines else ""

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        while part := await self.process.stderr.read(4096):
            self._stderr += part
            del self._stderr[:-STDERR_BYTES_MAX]


def _environment() -> dict[str, str]:
    """A short environment: the agent's may hold secrets. GNU OpenMP is told not to spin on a busy core while it waits."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    package_root = str(Path(cloudisense.__file__).resolve().parent.parent)
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
