"""What the model is told: a fixed part first, then the incident, fenced, as data.

The fixed part is evaluated once per load. Whatever comes from the subject is cleaned and, more to the point, turned into
tokens without chat marks (``Piece.ours`` is false): no text of a log or a path can end the report or speak as another role.
"""

import unicodedata
from dataclasses import dataclass

from cloudisense.agent.plan import PlanRequest

SYMPTOM_CHARS_MAX = 600
TITLE_CHARS_MAX = 200
KIND_CHARS_MAX = 40

_HARMLESS = str.maketrans("<>|", "()/")  # every chat template's marks, and our own fence, need one of these


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of prompt. Only in ``ours`` are chat marks such as ``<|im_start|>`` control tokens."""

    text: str
    ours: bool


FIXED = Piece(
    "<|im_start|>system\n"
    "You look after a Linux server. You are told what is wrong with it and answer with the one action that fixes it.<|im_end|>\n"
    "<|im_start|>user\n",
    True,
)
"""ChatML, as SmolLM2 and many other small models were trained on. The prompts below continue it."""

_FENCE = "\n<report>\n"
_ASK = "\n</report>\nWhat should be done?<|im_end|>\n<|im_start|>assistant\n"
_WHY = "<|im_end|>\n<|im_start|>user\nWhy does this help? Answer with one short sentence as JSON.<|im_end|>\n<|im_start|>assistant\n"

NEUTRAL = (Piece("Report:" + _FENCE + "No details." + _ASK, True),)
"""The same question about nothing: how likely a description is by itself. The ranking subtracts it (calibration)."""


def clean(text: str, chars_max: int) -> str:
    """``text`` on one line: no control, format or private characters, no angle bracket or bar, at most ``chars_max`` characters."""
    head = text[: chars_max * 4]  # bounds the work; blanks and control characters that go may be most of it
    kept = "".join(" " if ch.isspace() or unicodedata.category(ch)[0] == "C" else ch for ch in head)
    return " ".join(kept.translate(_HARMLESS).split())[:chars_max].rstrip()


def incident(request: PlanRequest) -> tuple[Piece, ...]:
    """The question about ``request``; continues ``FIXED``, ends where the answer starts."""
    return (
        Piece("Report (", True),
        Piece(clean(request.kind.replace("_", " "), KIND_CHARS_MAX), False),
        Piece("):" + _FENCE, True),
        Piece(clean(request.symptom, SYMPTOM_CHARS_MAX), False),
        Piece(_ASK, True),
    )


def why(title: str) -> tuple[Piece, ...]:
    """Continues ``incident`` with ``title`` as the answer, and asks for the reason."""
    return (Piece(clean(title, TITLE_CHARS_MAX), False), Piece(_WHY, True))
