#!/usr/bin/env python3
"""Twilio's own helper library against the voice webhook: it signs the request, and what it can build is what may
come back. Also proves that a request it would not accept as its own is refused.

usage: judge_twilio.py HOST:PORT PUBLIC_URL AUTH_TOKEN
"""

import http.client
import inspect
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

from twilio.request_validator import RequestValidator
from twilio.twiml import voice_response

PATHS = ("/api/twilio/voice", "/api/twilio/incoming-call")
FORM = {
    "CallSid": "CA00000000000000000000000000000001",
    "AccountSid": "AC00000000000000000000000000000001",
    "From": "+15005550006",
    "To": "+15005550009",
    "CallStatus": "ringing",
    "Direction": "inbound",
    "ApiVersion": "2010-04-01",
    "CallerName": "",
}


def camel(name: str) -> str:
    """`status_callback` as the attribute statusCallback; a trailing underscore only avoids a keyword."""
    first, *rest = name.strip("_").split("_")
    return first + "".join(part.capitalize() for part in rest)


def allowed(parent: type, child: str) -> set:
    """The attributes that the helper's builder of this child takes."""
    builder = getattr(parent, child)
    return {camel(name) for name in inspect.signature(builder).parameters if name not in ("self", "kwargs")}


def post(address: str, path: str, signature) -> tuple:
    connection = http.client.HTTPConnection(address, timeout=20)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if signature is not None:
        headers["X-Twilio-Signature"] = signature
    connection.request("POST", path, urllib.parse.urlencode(FORM), headers)
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type", ""), response.read().decode()


def main() -> int:
    address, public_url, token = sys.argv[1:4]
    faults = []
    validator = RequestValidator(token)
    for path in PATHS:
        url = public_url + path
        signature = validator.compute_signature(url, FORM)
        status, kind, body = post(address, path, signature)
        if status != 200 or "xml" not in kind:
            faults.append(f"{path}: signed by the helper, answered {status} {kind}: {body}")
            continue
        for other in (None, "", RequestValidator(token + "x").compute_signature(url, FORM)):
            status = post(address, path, other)[0]
            if status != 403:
                faults.append(f"{path}: signature {other!r} was answered {status}")
        document = ElementTree.fromstring(body)
        if document.tag != "Response":
            faults.append(f"{path}: the document is a <{document.tag}>")
        builders = {"Response": voice_response.VoiceResponse, "Connect": voice_response.Connect,
                    "Stream": voice_response.Stream}

        def check(element: ElementTree.Element) -> None:
            for child in element:
                builder = builders.get(element.tag)
                if builder is None or not hasattr(builder, child.tag.lower()):
                    faults.append(f"{path}: <{child.tag}> may not stand in <{element.tag}>")
                    continue
                extra = set(child.attrib) - allowed(builder, child.tag.lower())
                if extra:
                    faults.append(f"{path}: <{child.tag}> has {sorted(extra)}")
                check(child)

        check(document)
        streams = document.findall("./Connect/Stream")
        wanted = "wss://" + public_url.split("://", 1)[1] + "/"
        if len(streams) != 1 or not streams[0].get("url", "").startswith(wanted):
            faults.append(f"{path}: expected one stream at {wanted}…: {body}")
    print(f"webhook: {len(PATHS)} paths, {len(faults)} faults")
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
