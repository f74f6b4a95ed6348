"""One session with an MCP server by the Python SDK: session.py URL TOKEN MODE, where MODE is auto or legacy.

Prints as JSON what a program sees: the names of the tools, how many resources and prompts there are, and what each call gave.
"""

import asyncio
import json
import sys


async def session(url, token, mode):
    import httpx2
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    seen = {}

    async def note(what, call, show):
        try:
            seen[what] = show(await call())
        except Exception as problem:  # whatever the SDK raises is what its user sees
            seen[what] = f"{type(problem).__name__}: {problem}"

    def text(answer):
        return ("error: " if answer.is_error else "") + answer.content[0].text

    http = httpx2.AsyncClient(headers={"Authorization": "Bearer " + token}, timeout=30)
    async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
        await note("tools", client.list_tools, lambda r: sorted(t.name for t in r.tools))
        await note("resources", client.list_resources, lambda r: len(r.resources))
        await note("prompts", client.list_prompts, lambda r: len(r.prompts))
        await note("echo", lambda: client.call_tool("echo", {"message": "hello"}), text)
        await note("env", lambda: client.call_tool("get-env", {}), lambda r: text(r)[:1])
        await note("sum", lambda: client.call_tool("get-sum", {"a": 2, "b": 3}), text)
    return seen


print(json.dumps(asyncio.run(session(*sys.argv[1:4])), sort_keys=True))
