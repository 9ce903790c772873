"""Turns events of the TrainingRun operator into messages in a Slack channel. Python's standard library only, one file.

SLACK_URL is the channel's incoming webhook, WEBHOOK_SECRET what the operator signs with (`whsec_…`; two, divided by a space, while one replaces the other).
Listens on PORT (8080). Answers 204 once Slack has the message, so that the operator tells again what Slack did not take.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
import urllib.request
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

BODY_MAX = 64 * 1024
OLDEST_SECONDS = 300
REMEMBERED = 1000
TEXT_MAX = 2900  # Slack takes 3,000 characters in a section.

LOOKS = {
    "dev.trainingrun.checkpoint.held": (":warning:", "Checkpoint held: nothing is deleted, somebody must look"),
    "dev.trainingrun.data.lost": (":rotating_light:", "Data lost"),
    "dev.trainingrun.node.unreleased": (":money_with_wings:", "A GPU node is not given back"),
}
ENDS = {
    "auto_complete": (":white_check_mark:", "Training complete"),
    "auto_low_loss": (":white_check_mark:", "Auto-stopped (low loss)"),
    "user_stop": (":large_orange_square:", "Stopped by user"),
    "deleted": (":large_orange_square:", "Deleted"),
}


def message(event: dict) -> dict:
    """Return what Slack takes for an event."""
    data = event["data"]
    look = LOOKS.get(event["type"]) or ENDS.get(data["status"], (":x:", "Failed"))
    icon, title = look
    facts = {
        "step": data.get("step"),
        "loss": data.get("loss"),
        "checkpoint": data.get("checkpoint"),
        "by": data.get("actor"),
        "nodes": ", ".join(data.get("unreleasedNodes") or ()),
    }
    said = " · ".join(f"{name} {value}" for name, value in facts.items() if value not in (None, ""))
    run = f"{data['namespace']}/{data['name']}"
    words = data.get("dataLoss") or data.get("holdReason") or data["message"]
    section = f"{icon} *{escaped(title)}*: `{escaped(run)}`\n{escaped(words)}"[:TEXT_MAX]
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": section}}]
    if said:
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": escaped(said)[:TEXT_MAX]}]})
    return {"text": f"{title}: {escaped(run)}", "blocks": blocks}


def escaped(text: str) -> str:
    """A training's last words may hold `<!channel>`: people in the channel are not for a training to call."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def is_signed(headers: dict, body: bytes, secret: str, now: float) -> bool:
    """Whether a message was signed by the operator, and lately: https://www.standardwebhooks.com."""
    message_id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(now - int(at)) > OLDEST_SECONDS:
        return False
    content = f"{message_id}.{at}.".encode() + body
    keys = [base64.b64decode(one.removeprefix("whsec_")) for one in secret.split()]
    expected = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)) for key in keys]
    shown = [one.removeprefix("v1,").encode() for one in headers.get("webhook-signature", "").split(" ")]
    return any(hmac.compare_digest(one, other) for one in expected for other in shown)


class Receiver(ThreadingHTTPServer):
    """Takes events, and tells Slack."""

    def __init__(self, address: tuple[str, int], slack_url: str, secret: str) -> None:
        super().__init__(address, Handler)
        self.slack_url, self.secret = slack_url, secret
        self.told: OrderedDict[str, None] = OrderedDict()
        self.turn = Lock()

    def tell(self, event_id: str, event: dict) -> None:
        """Tell Slack, unless it was told: the operator tells at least once."""
        with self.turn:
            if event_id in self.told:
                return
            data = json.dumps(message(event)).encode()
            request = urllib.request.Request(self.slack_url, data, {"Content-Type": "application/json"})  # noqa: S310 - the administrator's
            with urllib.request.urlopen(request, timeout=10):  # noqa: S310
                pass
            self.told[event_id] = None
            if len(self.told) > REMEMBERED:
                self.told.popitem(last=False)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver
    timeout = 30

    def do_POST(self) -> None:
        """Take an event."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_MAX:
            self.answer(413)
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_signed(headers, body, self.server.secret, time.time()):
            self.answer(401)
            return
        try:
            self.server.tell(headers["webhook-id"], json.loads(body))
        except OSError as error:
            self.log_error("Slack did not take it: %s", error)
            self.answer(502)
        except (KeyError, TypeError, ValueError) as error:
            self.log_error("not an event: %r", error)
            self.answer(400)
        else:
            self.answer(204)

    def do_GET(self) -> None:
        """For the kubelet."""
        self.answer(204)

    def answer(self, status: int) -> None:
        """Without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    everywhere = ("", int(os.environ.get("PORT", "8080")))
    Receiver(everywhere, os.environ["SLACK_URL"], os.environ["WEBHOOK_SECRET"]).serve_forever()
