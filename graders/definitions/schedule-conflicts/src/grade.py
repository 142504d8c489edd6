"""Calendar events for tasks: complete, in the right category, without conflict or duplicate."""

from datetime import datetime, timezone
from typing import Any

COMPLETE = 0.4  # for an event of the task's title and length, within the window
CATEGORY = 0.2  # for the task's category
CLEAR = 0.4  # for no overlap with what is busy and with other events
MOST = 100  # events

Slot = tuple[datetime, datetime]


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return what the tasks' events earn, over the number of tasks or events, whichever is more."""
    answer = sample.get("output_json")
    events = objects(answer.get("events") if isinstance(answer, dict) else None)
    tasks = objects(item.get("tasks"))
    if not tasks or len(events) > MOST:
        return 0.0
    pairs = paired(tasks, events, item.get("window"))
    busy = [slot for entry in objects(item.get("busy")) if (slot := slot_of(entry))]
    slots = [slot for _, event in pairs if (slot := slot_of(event))]
    earned = 0.0
    for place, (task, event) in enumerate(pairs):
        others = busy + slots[:place] + slots[place + 1 :]
        is_clear = not any(overlap(slots[place], other) for other in others)
        earned += COMPLETE + CATEGORY * is_right(event, task) + CLEAR * is_clear
    return earned / max(len(tasks), len(events))


def paired(
    tasks: list[dict[str, Any]], events: list[dict[str, Any]], window: object
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return tasks with their events, those of the right category and a stated length first."""
    pairs = []
    free, waiting = list(events), sorted(tasks, key=lambda task: "minutes" not in task)
    for is_wanted in (is_right, lambda _event, _task: True):
        for task in list(waiting):
            fitting = (each for each in free if is_wanted(each, task))
            event = next((each for each in fitting if is_complete(each, task, window)), None)
            if event is not None:
                free.remove(event)
                waiting.remove(task)
                pairs.append((task, event))
    return pairs


def is_right(event: dict[str, Any], task: dict[str, Any]) -> bool:
    """Say whether ``event`` is in the task's category."""
    return words(event.get("category")) == words(task.get("category")) != ""


def is_complete(event: dict[str, Any], task: dict[str, Any], window: object) -> bool:
    """Say whether ``event`` is the task's: title and length are right, within the window."""
    slot, limits = slot_of(event), slot_of(window)
    if slot is None or not words(task.get("title")) == words(event.get("title")) != "":
        return False
    if limits and (slot[0] < limits[0] or slot[1] > limits[1]):
        return False
    minutes = (slot[1] - slot[0]).total_seconds() / 60
    return minutes == task.get("minutes", minutes)


def slot_of(entry: object) -> Slot | None:
    """Return start and end; None unless both are times and the start is before the end."""
    if not isinstance(entry, dict):
        return None
    start, end = moment(entry.get("start")), moment(entry.get("end"))
    return (start, end) if start and end and start < end else None


def moment(value: object) -> datetime | None:
    """Return an ISO 8601 time; one without offset is UTC. Written for Python 3.10, too."""
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))  # noqa: FURB162
    except (AttributeError, TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)  # noqa: UP017


def overlap(one: Slot, other: Slot) -> bool:
    """Say whether two slots share time; an end may be the other's start."""
    return one[0] < other[1] and other[0] < one[1]


def words(value: object) -> str:
    """Return a text in lower case with single spaces; empty for anything else."""
    return " ".join(value.lower().split()) if isinstance(value, str) else ""


def objects(value: object) -> list[dict[str, Any]]:
    """Return a list with its entries that are no objects as empty ones; empty for no list."""
    if not isinstance(value, list):
        return []
    return [entry if isinstance(entry, dict) else {} for entry in value]
