"""One call by one Python client, as its users write it: call.py CLIENT URL MODEL

CLIENT is openai, anthropic, httpx, requests or mcp. The base URL and key of the model clients come from their own
environment variables; URL is what the others fetch. Exit status 0: answered; 1: refused or failed, with what a person
sees of it on standard error.
"""

import sys


def openai_call(_url, model):
    import openai

    answer = openai.OpenAI(max_retries=0).chat.completions.create(model=model, messages=[{"role": "user", "content": "Say hello."}])
    return answer.choices[0].message.content


def anthropic_call(_url, model):
    import anthropic

    answer = anthropic.Anthropic(max_retries=0).messages.create(model=model, max_tokens=16, messages=[{"role": "user", "content": "Say hello."}])
    return answer.content[0].text


def httpx_call(url, _model):
    import httpx

    answer = httpx.get(url)
    answer.raise_for_status()
    return answer.text


def requests_call(url, _model):
    import requests

    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    return answer.text


def mcp_call(url, tool):
    import asyncio

    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def call():
        async with streamable_http_client(url) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await session.initialize()
                answer = await session.call_tool(tool, {})
                return answer.content[0].text

    return asyncio.run(call())


CLIENTS = {"openai": openai_call, "anthropic": anthropic_call, "httpx": httpx_call, "requests": requests_call, "mcp": mcp_call}

if __name__ == "__main__":
    try:
        print(CLIENTS[sys.argv[1]](sys.argv[2], sys.argv[3]))
    except Exception as problem:  # whatever a client raises is what its user sees
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
        sys.exit(1)
