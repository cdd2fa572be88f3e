"""The grammar that an answer must match, made from the candidates: a plan that does not exist cannot be written.

GBNF as llama.cpp reads it. The reason has letters and no digits: figures are measured, never the model's.
"""

import hashlib
import json
import re
from collections.abc import Sequence

import msgspec

from cloudisense.agent.plan import Candidate

NAME_CHARS_MAX = 200
"""Longest signature, as JSON, that stands in a grammar as it is; a longer one (none of ours) is named by its start and hash."""
BECAUSE_CHARS_MAX = 160

_BECAUSE = """because ::= [A-Z] letter{19,130} "."
letter ::= (", " | [ '-])? [a-zA-Z]
"""
_BECAUSE_TEXT = re.compile(r"[A-Z](?:(?:, |[ '-])?[a-zA-Z]){19,130}\.")


def plan_name(candidate: Candidate) -> str:
    """The name by which a grammar knows ``candidate``: its signature, unless that is unreasonable."""
    lone_surrogate = re.search("[\ud800-\udfff]", candidate.signature)  # JSON could write it, and no reader takes it
    if not lone_surrogate and len(json.dumps(candidate.signature)) <= NAME_CHARS_MAX:
        return candidate.signature
    digest = hashlib.sha256(candidate.signature.encode(errors="surrogatepass")).hexdigest()[:16]
    return re.sub(r"[^a-z0-9_=. ]", "", candidate.signature[:NAME_CHARS_MAX])[:100] + "~" + digest


def opening(candidate: Candidate) -> str:
    """The answer about ``candidate`` up to where its reason starts."""
    return f'{{"plan": {json.dumps(plan_name(candidate))}, "because": "'


def plan_grammar(candidates: Sequence[Candidate]) -> str:
    """GBNF of ``{"plan": <a candidate's name>, "because": <a sentence>}``.

    Raises ``ValueError`` for no candidates. With one candidate only the reason is free.
    """
    if not candidates:
        raise ValueError("no candidates to choose from")
    names = " | ".join(_literal(json.dumps(plan_name(candidate))) for candidate in candidates)
    return f'root ::= "{{\\"plan\\": " plan ", \\"because\\": \\"" because "\\"}}"\nplan ::= {names}\n{_BECAUSE}'


def parse_answer(text: str, candidates: Sequence[Candidate]) -> tuple[int, str]:
    """(index of the candidate, reason) in an answer of ``plan_grammar``'s language. ``ValueError`` for any other text."""
    try:
        answer = msgspec.json.decode(text, type=_Answer)
    except msgspec.MsgspecError:
        raise ValueError("the model's answer is not what the grammar asks for") from None
    names = [plan_name(candidate) for candidate in candidates]
    if answer.plan not in names or not _BECAUSE_TEXT.fullmatch(answer.because):
        raise ValueError("the model's answer is not what the grammar asks for")
    return names.index(answer.plan), answer.because


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    plan: str
    because: str


def _literal(text: str) -> str:
    """``text`` (ASCII: ``json.dumps`` made it) as a GBNF string. Everything that is not plainly harmless goes by its number."""
    return '"' + "".join(ch if re.match(r"[A-Za-z0-9 _=.,:/~-]", ch) else f"\\x{ord(ch):02X}" for ch in text) + '"'
