"""A langgraph agent with memory: its InMemorySaver keeps every checkpoint of every thread, until memory is short.

It needs langgraph: ``pip install langgraph``.
"""

from __future__ import annotations

from operator import add
from typing import Annotated, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

import memguard

THREADS, TURNS = 60, 5


class Talk(TypedDict):
    """What is said, oldest first."""

    said: Annotated[list[str], add]


def answer(talk: Talk) -> Talk:
    """A model's place: repeats what it was told, at length."""
    return {"said": [f"You said {talk['said'][-1][:20]!r}. " * 40]}


saver = InMemorySaver()
graph = StateGraph(Talk).add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)
agent = graph.compile(checkpointer=saver)

guard = memguard.Guard()
# Registering says: losing an idle conversation is better than losing the process. Those that run are never touched.
guard.cache(saver, name="conversations")


def main() -> None:
    with guard:
        for turn in range(TURNS):
            for thread in range(THREADS):
                with guard.operation("agent.turn"):
                    agent.invoke({"said": [f"turn {turn}"]}, {"configurable": {"thread_id": f"thread {thread}"}})
        kept = len(saver.storage)
        row = next(holder for holder in guard.holders() if holder.name == "conversations")
        turn_s = guard.operations.stats()[0].duration_p95_s
    print(f"{kept} of {THREADS} conversations kept, {row.size_bytes or 0:,} bytes, 95 % of turns within {turn_s:.3f} s")


if __name__ == "__main__":
    main()
