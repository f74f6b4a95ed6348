"""Checks the client's signed token and the model, and puts the upstream's credential in the token's place.

What it wants is in the JSON file beside it. It reads whole bodies, so streaming stays off, as it is by default.
"""

import base64
import ctypes
import json
import pathlib
import signal
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mitmproxy import http

ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the comparison, even if that is killed

WANTED = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())


def decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


KEY = Ed25519PublicKey.from_public_bytes(decode(WANTED["public_key"]))


def claims_of(authorization: str) -> dict | None:
    """The claims of a good token, or None."""
    scheme, _, token = authorization.partition(" ")
    parts = token.split(".")
    if scheme != "Bearer" or len(parts) != 3:
        return None
    try:
        if json.loads(decode(parts[0]))["alg"] != "EdDSA":
            return None
        KEY.verify(decode(parts[2]), f"{parts[0]}.{parts[1]}".encode())
        claims = json.loads(decode(parts[1]))
        good = claims["iss"] == WANTED["issuer"] and claims["aud"] == WANTED["audience"] and claims["exp"] > time.time()
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return None
    return claims if good else None


def allowed(request: http.Request, claims: dict) -> bool:
    if claims.get("role") != WANTED["role"] or request.method != "POST" or request.path != WANTED["path"]:
        return False
    try:
        return json.loads(request.get_content())["model"] in WANTED["models"]
    except (KeyError, TypeError, ValueError):
        return False


class Gate:
    def __init__(self) -> None:
        self.swapped = 0

    def request(self, flow: http.HTTPFlow) -> None:
        try:
            self.decide(flow)
        except Exception:  # mitmproxy only logs it, and lets the call pass
            flow.response = http.Response.make(500)

    def decide(self, flow: http.HTTPFlow) -> None:
        if flow.request.path == WANTED["counts_path"]:
            body = json.dumps({"swapped": self.swapped})
            flow.response = http.Response.make(200, body, {"Content-Type": "application/json"})
            return
        headers = flow.request.headers.get_all("Authorization")
        claims = claims_of(headers[0]) if len(headers) == 1 else None
        if claims is None:
            flow.response = http.Response.make(401)
            return
        if not allowed(flow.request, claims):
            flow.response = http.Response.make(403)
            return
        flow.request.headers["Authorization"] = "Bearer " + WANTED["credential"]
        self.swapped += 1


addons = [Gate()]
