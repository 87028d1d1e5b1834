#!/usr/bin/env python3
"""Judges recorded Realtime events by OpenAI's own published types.

    python3 -m venv VENV && VENV/bin/pip install openai
    VENV/bin/python .ci/judge_realtime.py RECORDING.jsonl ...

A recording has one object a line: {"dir": "in"|"out", "event": {...}}, as `--record` of `voxrelay demo` and
`voxrelay simulate model` writes it, seen from the model. "in" events must be client events, "out" events server
events; validation is strict, and a field that the types do not know is refused wherever it stands. Base64 members
must be base64.

One named exception: the types of `session.created` and `session.updated` describe the session as a client would
write it, while the wire shows it as the server gives it out. `session` is therefore judged by the union of
RealtimeSessionCreateRequest and RealtimeSessionCreateResponse (id, object, expires_at), which is published too.
"""

import base64
import binascii
import json
import sys
from collections import Counter

from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from openai.types.realtime.realtime_session_create_response import RealtimeSessionCreateResponse
from pydantic import BaseModel, TypeAdapter, ValidationError

CLIENT = TypeAdapter(RealtimeClientEvent)
SERVER = TypeAdapter(RealtimeServerEvent)
SESSION = TypeAdapter(RealtimeSessionCreateResponse)
SESSION_EVENTS = ("session.created", "session.updated")
SERVER_ONLY = ("id", "object", "expires_at")
BASE64_MEMBERS = {"input_audio_buffer.append": "audio", "response.output_audio.delta": "delta"}


def extras(value, path=""):
    """Every member that no type knows, by path."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in type(value).model_fields:
            yield from extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from extras(member, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, member in enumerate(value):
            yield from extras(member, f"{path}[{index}]")


def nearest(error):
    """A union reports every member it tried: only those whose `type` fitted say what is wrong."""
    members = {}
    for entry in error.errors():
        members.setdefault(entry["loc"][:1], []).append(entry)
    fitting = [
        entry
        for entries in members.values()
        if not any(entry["loc"][1:] == ("type",) for entry in entries)
        for entry in entries
    ]
    if not fitting:
        yield "no such event type"
    for entry in fitting[:5]:
        yield f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}"


def judge(direction, event):
    """What is wrong with one event."""
    kind = event.get("type") if isinstance(event, dict) else None
    try:
        if direction == "out" and kind in SESSION_EVENTS:
            session = event.get("session", {})
            shown = SESSION.validate_json(json.dumps(session), strict=True)
            # parallel_tool_calls is a request's member, echoed all the same.
            yield from (e for e in extras(shown, "session") if e != "session.parallel_tool_calls")
            session = {k: v for k, v in session.items() if k not in SERVER_ONLY}
            event = {**event, "session": session}
        adapter = CLIENT if direction == "in" else SERVER
        parsed = adapter.validate_json(json.dumps(event), strict=True)
    except ValidationError as error:
        yield from nearest(error)
        return
    for extra in extras(parsed):
        yield f"unknown member {extra}"
    member = BASE64_MEMBERS.get(kind)
    if member is not None:
        try:
            if not base64.b64decode(event[member], validate=True):
                yield f"{member} is empty"
        except (binascii.Error, ValueError) as error:
            yield f"{member} is not base64: {error}"


def main(paths):
    counts, complaints = Counter(), 0
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                entry = json.loads(line)
                direction = entry.get("dir")
                if direction not in ("in", "out"):
                    wrong = [f"dir is {direction!r}"]
                elif "event" not in entry:
                    wrong = ["not JSON"]
                else:
                    wrong = list(judge(direction, entry["event"]))
                    kind = entry["event"].get("type") if isinstance(entry["event"], dict) else None
                    counts[direction, kind] += 1
                for text in wrong:
                    complaints += 1
                    if complaints <= 50:
                        print(f"{path}:{number}: {direction} {entry.get('event', {}).get('type')}: {text}")
    for (direction, kind), count in sorted(counts.items(), key=str):
        print(f"{direction:3} {count:6} {kind}")
    if not counts:
        print("nothing was recorded")
        return 1
    print(f"{sum(counts.values())} events, {complaints} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
