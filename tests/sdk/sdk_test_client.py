"""Stock Python SDKs against the gateway: what they get where the contract allows, and what they show where it does not.

Prints one JSON object for each case, on a line of its own, and exits 1 if any case went otherwise than it should:

    client, case    which SDK did what
    ok              the case went as it should
    status          HTTP status of the last answer
    text, usage     what the SDK made of the answer
    error_type, error_body, error_text
                    the SDK's exception, the body it carries, and what a person sees of it
    requests_made   HTTP requests that the SDK sent, retries included
    receipt         x-sallyport-receipt of the answer, "" for none

Environment:

    GATEWAY_URL     required, e.g. http://127.0.0.1:8080
    TOKEN           required, the job's scoped token
    OPENAI_PATH, ANTHROPIC_PATH, GEMINI_PATH
                    base paths below GATEWAY_URL; default /openai/v1, /anthropic, /gemini
    OPENAI_MODEL, EMBEDDING_MODEL, ANTHROPIC_MODEL, GEMINI_MODEL
                    models that the contract allows
    OPENAI_REFUSED, ANTHROPIC_REFUSED, GEMINI_REFUSED
                    models that it does not
    CASES           comma-separated substrings of "client/case"; only matching cases run
"""

import json
import os
import sys

import anthropic
import openai
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

PROMPT = "Say hello."


def env(name, default):
    return os.environ.get(name) or default


GATEWAY = os.environ["GATEWAY_URL"].rstrip("/")
TOKEN = os.environ["TOKEN"]
OPENAI_URL = GATEWAY + env("OPENAI_PATH", "/openai/v1")
ANTHROPIC_URL = GATEWAY + env("ANTHROPIC_PATH", "/anthropic")
GEMINI_URL = GATEWAY + env("GEMINI_PATH", "/gemini")
OPENAI_MODEL = env("OPENAI_MODEL", "gpt-4o-mini")
EMBEDDING_MODEL = env("EMBEDDING_MODEL", "text-embedding-3-small")
ANTHROPIC_MODEL = env("ANTHROPIC_MODEL", "claude-sonnet-4-5")
GEMINI_MODEL = env("GEMINI_MODEL", "gemini-2.5-flash")
OPENAI_REFUSED = env("OPENAI_REFUSED", "gpt-5")
ANTHROPIC_REFUSED = env("ANTHROPIC_REFUSED", "claude-opus-9")
GEMINI_REFUSED = env("GEMINI_REFUSED", "gemini-9-ultra")


class Wire:
    """Counts what goes over the wire, without changing what the SDK does."""

    def __init__(self):
        self.requests = 0
        self.status = None
        self.headers = {}

    def hooks(self):
        def request(_):
            self.requests += 1

        def response(answer):
            self.status = answer.status_code
            self.headers = dict(answer.headers)

        return {"request": [request], "response": [response]}


def openai_client(wire):
    return openai.OpenAI(
        base_url=OPENAI_URL, api_key=TOKEN, timeout=30,
        http_client=openai.DefaultHttpxClient(event_hooks=wire.hooks()),
    )


def anthropic_client(wire):
    return anthropic.Anthropic(
        base_url=ANTHROPIC_URL, api_key=TOKEN, timeout=30,
        http_client=anthropic.DefaultHttpxClient(event_hooks=wire.hooks()),
    )


def gemini_client(wire):
    return genai.Client(
        api_key=TOKEN,
        http_options=genai_types.HttpOptions(base_url=GEMINI_URL, timeout=30_000, client_args={"event_hooks": wire.hooks()}),
    )


def plain(usage):
    """The usage as JSON, or None."""
    return None if usage is None else usage.model_dump(mode="json", exclude_none=True)


def messages():
    return [{"role": "user", "content": PROMPT}]


def openai_chat(wire, model=OPENAI_MODEL):
    answer = openai_client(wire).chat.completions.create(model=model, messages=messages())
    return answer.choices[0].message.content, plain(answer.usage)


def openai_chat_stream(wire, model=OPENAI_MODEL):
    text, usage = "", None
    stream = openai_client(wire).chat.completions.create(
        model=model, messages=messages(), stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
        usage = chunk.usage or usage
    return text, plain(usage)


def openai_responses(wire, model=OPENAI_MODEL):
    answer = openai_client(wire).responses.create(model=model, input=PROMPT)
    return answer.output_text, plain(answer.usage)


def openai_responses_stream(wire, model=OPENAI_MODEL):
    text, usage = "", None
    for event in openai_client(wire).responses.create(model=model, input=PROMPT, stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.completed":
            usage = event.response.usage
            if event.response.output_text != text:
                raise AssertionError("the completed response differs from its deltas")
    return text, plain(usage)


def openai_embeddings(wire, model=EMBEDDING_MODEL):
    answer = openai_client(wire).embeddings.create(model=model, input=[PROMPT, "Another text."])
    return "%d vectors of %d" % (len(answer.data), len(answer.data[0].embedding)), plain(answer.usage)


def anthropic_messages(wire, model=ANTHROPIC_MODEL):
    answer = anthropic_client(wire).messages.create(model=model, max_tokens=64, messages=messages())
    return "".join(b.text for b in answer.content if b.type == "text"), plain(answer.usage)


def anthropic_messages_stream(wire, model=ANTHROPIC_MODEL):
    with anthropic_client(wire).messages.stream(model=model, max_tokens=64, messages=messages()) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    return text, plain(usage)


def anthropic_count_tokens(wire, model=ANTHROPIC_MODEL):
    answer = anthropic_client(wire).messages.count_tokens(model=model, messages=messages())
    return "counted", {"input_tokens": answer.input_tokens}


def gemini_generate(wire, model=GEMINI_MODEL):
    client = gemini_client(wire)
    answer = client.models.generate_content(model=model, contents=PROMPT)
    return answer.text, plain(answer.usage_metadata)


def gemini_generate_stream(wire, model=GEMINI_MODEL):
    client = gemini_client(wire)
    text, usage = "", None
    for chunk in client.models.generate_content_stream(model=model, contents=PROMPT):
        text += chunk.text or ""
        usage = chunk.usage_metadata or usage
    return text, plain(usage)


ALLOWED = [
    ("openai", "chat", openai_chat),
    ("openai", "chat-stream", openai_chat_stream),
    ("openai", "responses", openai_responses),
    ("openai", "responses-stream", openai_responses_stream),
    ("openai", "embeddings", openai_embeddings),
    ("anthropic", "messages", anthropic_messages),
    ("anthropic", "messages-stream", anthropic_messages_stream),
    ("anthropic", "count-tokens", anthropic_count_tokens),
    ("google-genai", "generate", gemini_generate),
    ("google-genai", "generate-stream", gemini_generate_stream),
]

REFUSED = [
    ("openai", "chat", openai_chat, OPENAI_REFUSED),
    ("openai", "chat-stream", openai_chat_stream, OPENAI_REFUSED),
    ("openai", "responses", openai_responses, OPENAI_REFUSED),
    ("openai", "responses-stream", openai_responses_stream, OPENAI_REFUSED),
    ("anthropic", "messages", anthropic_messages, ANTHROPIC_REFUSED),
    ("anthropic", "messages-stream", anthropic_messages_stream, ANTHROPIC_REFUSED),
    ("google-genai", "generate", gemini_generate, GEMINI_REFUSED),
    ("google-genai", "generate-stream", gemini_generate_stream, GEMINI_REFUSED),
]


def error_body(error):
    """The body that the SDK kept of a refusal: OpenAI's unwraps the error, Anthropic's and Google's do not."""
    body = getattr(error, "body", None)
    return body if body is not None else getattr(error, "details", None)


def refusal_code(body):
    if not isinstance(body, dict):
        return None
    inner = body.get("error")
    return (inner if isinstance(inner, dict) else body).get("code")


def run(client, case, call):
    """Runs one case. The exception is part of the result, whatever it is."""
    wire = Wire()
    result = {"client": client, "case": case, "ok": False, "text": None, "usage": None, "error_type": None, "error_body": None, "error_text": None}
    error = None
    try:
        result["text"], result["usage"] = call(wire)
    except Exception as e:  # noqa: BLE001 - which one it is, is what the case is about
        error = e
        result.update(error_type=type(e).__name__, error_body=error_body(e), error_text=str(e)[:2000])
    result.update(
        status=wire.status, requests_made=wire.requests,
        receipt=wire.headers.get("x-sallyport-receipt", ""), content_type=wire.headers.get("content-type", ""),
    )
    return result, error


def run_allowed(client, case, call):
    r, error = run(client, case, call)
    r["ok"] = error is None and r["status"] == 200 and bool(r["text"]) and bool(r["usage"]) and r["requests_made"] == 1
    return r


def run_refused(client, case, call, model):
    r, error = run(client, case + "-refused", lambda wire: call(wire, model))
    sdk_status = getattr(error, "status_code", None)
    if isinstance(error, genai_errors.APIError):
        sdk_status = error.code
    code = refusal_code(r["error_body"])
    r.update(sdk_status=sdk_status, error_code=code)
    r["ok"] = (
        r["status"] == 451 and sdk_status == 451 and r["requests_made"] == 1
        and code == "POLICY_MODEL_NOT_ALLOWED" and code in (r["error_text"] or "")
    )
    return r


def main():
    wanted = [w for w in env("CASES", "").split(",") if w]

    def selected(client, case):
        return not wanted or any(w in client + "/" + case for w in wanted)

    failed = 0
    for client, case, call in ALLOWED:
        if selected(client, case):
            r = run_allowed(client, case, call)
            failed += not r["ok"]
            print(json.dumps(r, ensure_ascii=False), flush=True)
    for client, case, call, model in REFUSED:
        if selected(client, case + "-refused"):
            r = run_refused(client, case, call, model)
            failed += not r["ok"]
            print(json.dumps(r, ensure_ascii=False), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
