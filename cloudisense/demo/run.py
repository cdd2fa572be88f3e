"""The demo's plot: a disk fills, a neighbour's model plans, the subject authorises; it fills again, and memory answers."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from cloudisense.config import ModelConfig
from cloudisense.demo.stage import VOLUME_MB, Stage
from cloudisense.demo.story import Story
from cloudisense.home import home_of
from cloudisense.host.model_file import find_model
from cloudisense.llm.models import Model

FILL_PERCENT = 95.0
HEALED_BELOW_PERCENT = 80.0
RUN_S = 150.0
UNLOAD_S = 10.0
PLANNERS: dict[str | None, dict[str, tuple[str, ...]]] = {
    None: {"a": ("memory", "rules"), "b": ("memory", "rules", "llm"), "c": ("memory", "rules")},
    "llm": {"a": ("rules",), "b": ("llm",), "c": ("rules",)},
    "rules": {"a": ("rules",), "b": ("rules",), "c": ("rules",)},
    "memory": {"a": ("memory", "rules"), "b": ("memory", "rules", "llm"), "c": ("memory", "rules")},
}
"""``--planner`` -> what each agent may ask. Memory has to learn once: its first run is a rehearsal."""


class _Listener:
    """Follows A's incidents through what the agents say."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.incident = ""
        self.ended: set[str] = set()
        self.known = False

    def begin(self) -> None:
        """A new run."""
        self.incident, self.ended, self.known = "", set(), False

    def event(self, who: str, event: dict[str, Any]) -> None:
        """An agent said something."""
        if event["topic"] == "alert" and who == "a":
            self.incident = event["incident"]
        if event["incident"] == self.incident and self.incident:
            if event["topic"] in ("resolved", "escalated", "cleared"):
                self.ended.add(who)
            elif event["topic"] == "known":
                self.known = True
        self._story.event(who, event)

    def over(self) -> bool:
        """Has the incident ended for A, and does A know that all know?"""
        return "a" in self.ended and self.known


def run_demo(planner: str | None, state: Path | None, silent: bool) -> dict[str, Any]:
    """Run the demo and say how it went. ``ValueError``, one line, when this host cannot run it."""
    if planner not in PLANNERS:
        raise ValueError(f"--planner {planner}: choose rules, llm or memory")
    models = home_of(state).models
    model = find_model(ModelConfig(), (models,)) if planner != "rules" else None
    if model is None and planner != "rules":
        raise ValueError(f"no model in {models}: run cloudisense llm add smollm2 first, or cloudisense demo --planner rules")
    story = Story(None if silent else Console(file=sys.stdout, highlight=False))
    result = asyncio.run(_play(planner, model, story))
    story.table(result["runs"], result["healed"], result["canaries_intact"])
    return result


async def _play(planner: str | None, model: Model | None, story: Story) -> dict[str, Any]:
    listener = _Listener(story)
    has = "B has a language model" if model is not None else "no language model"
    story.heading(f"Three agents, A, B and C, each a process with its own keys and state folder; {has}.")
    stage = Stage(PLANNERS[planner], "cache" if planner == "rules" else "temp", model.path if model else None, listener.event)
    story.mount = str(stage.mount)
    async with stage:
        story.line(f"one mesh over UDP and TLS on loopback; A's disk: {VOLUME_MB} MB, {stage.used()} % used")
        if planner == "memory":
            await _run(stage, story, listener, "Rehearsal, so that there is something to remember: A's disk fills.")
        runs = [
            await _run(stage, story, listener, "The first time: A's disk fills with an application's old scratch files."),
            await _run(stage, story, listener, "The same fault again."),
        ]
        healed = all(run["used_after"] < HEALED_BELOW_PERCENT and run["state"] == "resolved" for run in runs)
        return {"healed": healed, "canaries_intact": stage.canaries_intact(), "runs": runs}


async def _run(stage: Stage, story: Story, listener: _Listener, heading: str) -> dict[str, Any]:
    await _model_unloaded(stage)
    loads = (await stage.status("b")).get("model_loads", 0)
    listener.begin()
    story.heading(heading)
    story.began_ms = began_ms = await stage.fill(FILL_PERCENT)
    before = stage.used()
    await stage.until(listener.over, RUN_S, "the incident did not end")
    after = stage.used()
    # What an agent says can be heard before what it writes can be read.
    await stage.until(lambda: bool(stage.incident(listener.incident).get("known_to_all_ms")), RUN_S, "the incident was not written down")
    row = stage.incident(listener.incident)
    names = {name: (await stage.status(name)).get("id", "") for name in stage.actors}

    def name_of(node: str) -> str:
        return next((name for name, ident in names.items() if ident == node), node)

    def since(key: str) -> int | None:
        return row[key] - began_ms if row.get(key) else None

    return {
        "subject": row["subject"],
        "fault": row["kind"],
        "state": row["state"],
        "used_before": before,
        "used_after": after,
        "planned_by": name_of(row["planned_by"]),
        "acted_by": name_of(row["acted_by"]),
        "authorised_by": name_of(row["authorised_by"]),
        "planner": row["planner"],
        "plan": row["plan"],
        "reasoning": row["reasoning"],
        "opened_ms": since("opened_ms"),
        "offered_ms": since("offered_ms"),
        "granted_ms": since("granted_ms"),
        "acted_ms": since("acted_ms"),
        "verified_ms": since("closed_ms"),
        "known_to_all_ms": since("known_to_all_ms"),
        "began_ms": began_ms,
        "model_loads": (await stage.status("b")).get("model_loads", 0) - loads,
    }


async def _model_unloaded(stage: Stage) -> None:
    """Wait until B's model of the last run is gone, so that this run shows what it loads."""
    for _ in range(int(UNLOAD_S / 0.1)):
        if not (await stage.status("b")).get("model_loaded"):
            return
        await asyncio.sleep(0.1)
