"""The model itself, on the public C interface of llama.cpp: token scores and constrained writing. Worker process only.

Why not ``llama_cpp.Llama``: it evaluates one sequence at a time and its score table holds every position x vocabulary.
Here one batch scores all candidates as sequences that share their prefix's cells, and only the positions that are asked for have logits.
"""

import ctypes
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy only sums rows here; its idle threads would cost address space

# By name, because both come with the extra `llm`: the types must check the same with and without it.
c: Any = importlib.import_module("llama_cpp")
np: Any = importlib.import_module("numpy")

Row = Any
"""Logits after one position: a numpy float32 array, one item per token of the vocabulary."""

BATCH_TOKENS = 256
"""Tokens per evaluation; bounds the logits buffer at this x vocabulary x 4 bytes (50 MB for 49 k)."""
SHORTLIST = 48
"""Tokens that the grammar is asked about first; over the whole vocabulary it costs more than the model does."""

_ERROR = 4


@c.llama_log_callback
def _quiet(level: int, text: bytes, _data: object) -> None:
    """llama.cpp's errors go to stderr, where the planner keeps the last of them; the hundreds of lines beside them do not."""
    if level == _ERROR:
        os.write(2, text)


class Engine:
    """One loaded model with one key-value cache, shared by ``sequences`` numbered token sequences.

    Raises ``ValueError`` when the file cannot be loaded. Everything is greedy: the same calls give the same answers.
    """

    def __init__(self, path: Path, threads: int, context: int, sequences: int) -> None:
        c.llama_log_set(_quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        options = c.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = c.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise ValueError(f"{path.name} cannot be loaded: it is damaged, or not a model that this llama.cpp knows")
        wanted = c.llama_context_default_params()
        wanted.n_ctx = context
        wanted.n_batch = wanted.n_ubatch = BATCH_TOKENS
        wanted.n_seq_max = sequences
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.kv_unified = True  # or the cells are divided among the sequences, and forking a prefix copies it
        self._context = c.llama_init_from_model(self._model, wanted)
        if not self._context:
            c.llama_model_free(self._model)
            raise ValueError(f"{path.name}: no memory for a context of {context} tokens")
        self._memory = c.llama_get_memory(self._context)
        self._vocabulary = c.llama_model_get_vocab(self._model)
        self._size = c.llama_vocab_n_tokens(self._vocabulary)
        self._batch = c.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._lengths = [0] * sequences
        self.context = context

    def close(self) -> None:
        """Free the model's memory; the engine is not used afterwards."""
        c.llama_batch_free(self._batch)
        c.llama_free(self._context)
        c.llama_model_free(self._model)

    def tokens(self, text: str, special: bool = False) -> list[int]:
        """``text`` as tokens. Only with ``special`` do chat marks such as ``<|im_start|>`` become control tokens."""
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        count = c.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), False, special)
        return list(room[:count])

    def length(self, sequence: int) -> int:
        """Tokens that ``sequence`` holds."""
        return self._lengths[sequence]

    def fork(self, source: int, target: int) -> None:
        """Make ``target`` a copy of ``source``; the cells are shared, so it costs nothing."""
        self.cut(target, 0)
        c.llama_memory_seq_cp(self._memory, source, target, 0, -1)
        self._lengths[target] = self._lengths[source]

    def cut(self, sequence: int, length: int) -> None:
        """Forget what ``sequence`` holds from position ``length`` on."""
        c.llama_memory_seq_rm(self._memory, sequence, length, -1)
        self._lengths[sequence] = length

    def feed(self, sequence: int, tokens: Sequence[int]) -> Row:
        """Append ``tokens`` (at least one) to ``sequence``; the logits after the last one."""
        row: Row | None = None
        for start in range(0, len(tokens), BATCH_TOKENS):
            part = tokens[start : start + BATCH_TOKENS]
            self._evaluate([(sequence, token, start + i == len(tokens) - 1) for i, token in enumerate(part)])
            if start + len(part) == len(tokens):
                row = self._row(len(part) - 1).copy()
        if row is None:
            raise ValueError("nothing to feed")
        return row

    def likelihoods(self, base: int, row: Row, texts: Sequence[Sequence[int]], spare: Sequence[int]) -> list[list[float]]:
        """Natural log-probability of every token of each text, had it followed ``base`` (whose last logits are ``row``).

        ``spare`` are sequences that may be overwritten; texts of at most ``BATCH_TOKENS`` tokens share batches.
        """
        result: list[list[float]] = []
        pending = list(texts)
        while pending:
            group: list[Sequence[int]] = []
            while pending and len(group) < len(spare) and sum(map(len, group)) + len(pending[0]) <= BATCH_TOKENS:
                group.append(pending.pop(0))
            if not group:
                raise ValueError("a text is longer than a batch")
            entries: list[tuple[int, int, bool]] = []
            for sequence, text in zip(spare, group, strict=False):
                self.fork(base, sequence)
                entries += [(sequence, token, i < len(text) - 1) for i, token in enumerate(text)]
            self._evaluate(entries)
            index = 0
            for sequence, text in zip(spare, group, strict=False):
                rows = [row, *(self._row(index + i) for i in range(len(text) - 1))]
                result.append([_log_probability(r, token) for r, token in zip(rows, text, strict=True)])
                index += len(text)
                self.cut(sequence, 0)
        return result

    def write(self, sequence: int, row: Row, grammar: str, given: str, tokens_max: int) -> tuple[str, bool]:
        """Continue ``sequence`` under ``grammar``, whose text starts with ``given``; (what was added, whether the grammar was finished).

        ``given`` is evaluated in one batch: what the grammar leaves no choice about need not be sampled token by token.
        """
        sampler = c.llama_sampler_init_grammar(self._vocabulary, grammar.encode(), b"root")
        if not sampler:
            raise ValueError("the grammar does not parse")
        try:
            start = self.tokens(given)
            for token in start:
                c.llama_sampler_accept(sampler, token)
            row = self.feed(sequence, start) if start else row
            text = b""
            for _ in range(tokens_max):
                token = self._allowed(sampler, row)
                if c.llama_vocab_is_eog(self._vocabulary, token):
                    return text.decode(errors="replace"), True
                c.llama_sampler_accept(sampler, token)
                text += self._piece(token)
                row = self.feed(sequence, [token])
            return text.decode(errors="replace"), False
        finally:
            c.llama_sampler_free(sampler)

    def _allowed(self, sampler: int, row: Row) -> int:
        """The likeliest token that the grammar admits."""
        shortlist = np.argpartition(row, -SHORTLIST)[-SHORTLIST:]
        for among in (shortlist, np.arange(self._size)):
            data = (c.llama_token_data * len(among))()
            for i, token in enumerate(among):
                data[i].id, data[i].logit, data[i].p = int(token), float(row[token]), 0.0
            array = c.llama_token_data_array(data, len(among), -1, False)
            c.llama_sampler_apply(sampler, ctypes.byref(array))
            best = max(data, key=lambda d: (d.logit, -d.id))
            if best.logit > -np.inf:
                return best.id
        raise ValueError("the grammar admits no token")

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(256)
        count = c.llama_token_to_piece(self._vocabulary, token, room, len(room), 0, False)
        return room.raw[: max(count, 0)]

    def _evaluate(self, entries: Sequence[tuple[int, int, bool]]) -> None:
        """Run one batch of (sequence, token, whether logits are wanted), each at its sequence's end."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (sequence, token, wanted) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = self._lengths[sequence]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
            self._lengths[sequence] += 1
        status = c.llama_decode(self._context, batch)
        if status != 0:
            raise ValueError(f"the model could not be evaluated ({status}): {len(entries)} tokens do not fit a context of {self.context}")

    def _row(self, index: int) -> Row:
        return np.ctypeslib.as_array(c.llama_get_logits_ith(self._context, index), shape=(self._size,))


def _log_probability(row: Row, token: int) -> float:
    top = float(row.max())
    return float(row[token]) - top - float(np.log(np.exp(row - top).sum(dtype=np.float64)))
