"""Ranking with a model in this process. Runs in the worker; nothing else imports it.

A small model chooses little better than chance when it is asked to name an item of a menu. It does better when each
candidate's description is scored as the answer itself, less how likely that description is as an answer to nothing in particular:
mean over the description's tokens of log p(token | report) - log p(token | no report). (Calibration: Zhao et al.,
"Calibrate Before Use", ICML 2021; scoring by difference: Holtzman et al., "Surface Form Competition", EMNLP 2021.)
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from cloudisense.agent.plan import Candidate, PlanRequest, Ranking
from cloudisense.llm import prompt
from cloudisense.llm.engine import Engine, Row
from cloudisense.llm.grammar import opening, parse_answer, plan_grammar
from cloudisense.llm.messages import CANDIDATES_MAX
from cloudisense.llm.words import reasoning, shortened

CONTEXT = 1024
"""Tokens over all sequences: fixed part, two reports, eight descriptions and a reason take at most about 900."""
SYMPTOM_TOKENS_MAX = 256
TITLE_TOKENS_MAX = 32
BECAUSE_TOKENS_MAX = 40

_FIXED, _NEUTRAL, _INCIDENT, _WORDS = range(4)
_SPARE = range(4, 12)


def threads_default() -> int:
    """All cores but one, at least one. llama.cpp's threads spin while they wait for each other: with every core taken, one busy
    neighbour slows it fiftyfold."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LocalModel:
    """The model at ``path``, loaded at the first ``rank``. Same request, same answer: nothing is sampled."""

    def __init__(self, path: Path, threads: int | None = None, context: int = CONTEXT) -> None:
        self.path = path
        self._threads = threads or threads_default()
        self._context = context
        self._engine: Engine | None = None
        self._neutral: Row = None
        self.load_ms = 0

    def rank(self, request: PlanRequest) -> Ranking:
        """Order the candidates and give the first one a reason. ``ValueError`` when the model cannot be loaded or evaluated."""
        if not 0 < len(request.candidates) <= CANDIDATES_MAX:
            raise ValueError(f"{len(request.candidates)} candidates: 1 to {CANDIDATES_MAX} can be ranked")
        engine = self._loaded()
        started = time.monotonic_ns()
        try:
            row = self._continue(engine, _FIXED, _INCIDENT, prompt.incident(request))
            scores = self._scores(engine, row, request.candidates)
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
            chosen = request.candidates[order[0]]
            because = self._because(engine, chosen)
        finally:
            self._forget(engine)
        think_ms = (time.monotonic_ns() - started) // 1_000_000
        return Ranking(tuple(order), reasoning(request, chosen, because), "llm", self.path.stem[:64], self.load_ms, think_ms)

    def _loaded(self) -> Engine:
        """The engine, with the fixed part and the neutral report evaluated once and kept."""
        if self._engine is None:
            started = time.monotonic_ns()
            engine = Engine(self.path, self._threads, self._context, _SPARE.stop)
            engine.feed(_FIXED, engine.tokens(prompt.FIXED.text, special=True))
            self._neutral = self._continue(engine, _FIXED, _NEUTRAL, prompt.NEUTRAL)
            self._engine = engine
            self.load_ms = (time.monotonic_ns() - started) // 1_000_000
        return self._engine

    def _scores(self, engine: Engine, row: Row, candidates: Iterable[Candidate]) -> list[float]:
        """Calibrated likelihood of every candidate's title, in nats per token."""
        titles = [engine.tokens(prompt.clean(c.title, prompt.TITLE_CHARS_MAX) or "Nothing.")[:TITLE_TOKENS_MAX] for c in candidates]
        told = engine.likelihoods(_INCIDENT, row, titles, _SPARE)
        untold = engine.likelihoods(_NEUTRAL, self._neutral, titles, _SPARE)
        return [(sum(with_report) - sum(without)) / len(with_report) for with_report, without in zip(told, untold, strict=True)]

    def _because(self, engine: Engine, chosen: Candidate) -> str:
        """The model's sentence on why ``chosen`` helps; empty when it finds none. The ranking does not depend on it."""
        row = self._continue(engine, _INCIDENT, _WORDS, prompt.why(chosen.title))
        given = opening(chosen)
        added, finished = engine.write(_WORDS, row, plan_grammar([chosen]), given, BECAUSE_TOKENS_MAX)
        return parse_answer(given + added, [chosen])[1] if finished else shortened(added)

    def _continue(self, engine: Engine, source: int, target: int, pieces: Iterable[prompt.Piece]) -> Row:
        """Fork ``source`` and append ``pieces``; the logits after them."""
        tokens: list[int] = []
        for piece in pieces:
            tokens += engine.tokens(piece.text, special=True) if piece.ours else engine.tokens(piece.text)[:SYMPTOM_TOKENS_MAX]
        engine.fork(source, target)
        return engine.feed(target, tokens)

    def _forget(self, engine: Engine) -> None:
        """Drop what the request added, so that the next one starts from the same cells, and with them the same rounding."""
        for sequence in (_INCIDENT, _WORDS, *_SPARE):
            engine.cut(sequence, 0)

    def close(self) -> None:
        """Free the memory."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
