"""Checks the client's signed token and the model, and puts the upstream's credential in the token's place.

As a reverse proxy it takes the token from each call. As an explicit proxy ("authority" is set) the token comes with CONNECT,
must be good for the one host that is allowed, and is checked again for each call inside the tunnel. What it wants is in the
JSON file beside it. It reads whole bodies, so streaming stays off, as it is by default.
"""

import base64
import ctypes
import json
import pathlib
import signal
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mitmproxy import connection, http
from mitmproxy.proxy import server_hooks

ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the comparison, even if that is killed

WANTED = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())


def decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


KEY = Ed25519PublicKey.from_public_bytes(decode(WANTED["public_key"]))


def bearer_of(request: http.Request) -> str:
    headers = request.headers.get_all("Authorization")
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    return token if scheme == "Bearer" else ""


def proxy_token_of(request: http.Request) -> str:
    """The password of the client's proxy URL."""
    headers = request.headers.get_all("Proxy-Authorization")
    scheme, _, pair = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    try:
        return base64.b64decode(pair, validate=True).decode().partition(":")[2] if scheme == "Basic" else ""
    except ValueError:
        return ""


def claims_of(token: str) -> dict | None:
    """The claims of a good token, or None."""
    parts = token.split(".")
    if len(parts) != 3:
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
        self.tunnels: dict[str, str] = {}  # tokens by client connection

    def http_connect(self, flow: http.HTTPFlow) -> None:
        try:
            self.open(flow)
        except Exception:  # mitmproxy only logs it, and opens the tunnel
            flow.response = http.Response.make(500)

    def open(self, flow: http.HTTPFlow) -> None:
        token = proxy_token_of(flow.request)
        if claims_of(token) is None:
            flow.response = http.Response.make(407, b"", {"Proxy-Authenticate": "Basic"})
        elif f"{flow.request.host}:{flow.request.port}" != WANTED["authority"]:
            flow.response = http.Response.make(403)
        else:
            self.tunnels[flow.client_conn.id] = token

    def client_disconnected(self, client: connection.Client) -> None:
        self.tunnels.pop(client.id, None)

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        if "authority" in WANTED:  # no resolver knows the name
            data.server.address = (WANTED["host"], WANTED["port"])

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
        token = self.tunnels.get(flow.client_conn.id, "") if "authority" in WANTED else bearer_of(flow.request)
        claims = claims_of(token)
        if claims is None:
            flow.response = http.Response.make(401)
            return
        if "authority" in WANTED and flow.request.host_header != WANTED["authority"]:
            flow.response = http.Response.make(421)
            return
        if not allowed(flow.request, claims):
            flow.response = http.Response.make(403)
            return
        flow.request.headers["Authorization"] = "Bearer " + WANTED["credential"]
        self.swapped += 1


addons = [Gate()]
