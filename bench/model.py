"""A model server that remembers nothing: Chat Completions and Responses, and a sink for spans. `python -m bench.model PORT`.

It doesn't parse what it is sent, but looks for the task and counts the tool results: a real provider's time isn't measured
here, and a system that sends the whole conversation must not be charged for this process's JSON.
"""

import asyncio
import json
import re
import sys

from aiohttp import web

from bench.task import Task, final_text, turn_text

__all__ = ["app"]

CREATED = 1_700_000_000
_PREVIOUS = re.compile(rb'"previous_response_id": ?"resp_(\d+)_(\d+)_(\w+)"')


async def _read(request: web.Request, marker: bytes) -> tuple[Task, int]:
    """The task of a request, and how many tool results it has seen."""
    body = await request.read()
    done = body.count(marker)
    if found := _PREVIOUS.search(body):
        return Task(int(found[1]), found[3].decode()), int(found[2]) + done
    task = Task.read(body)
    if task is None:
        raise web.HTTPBadRequest(text='{"error": {"message": "no task in the request"}}')
    if task.hold:
        await asyncio.sleep(task.hold)
    return task, done


def _json(content: object) -> web.Response:
    return web.Response(body=json.dumps(content).encode(), content_type="application/json")


async def chat(request: web.Request) -> web.Response:
    """OpenAI's Chat Completions: the whole conversation comes with each request."""
    task, done = await _read(request, b'"tool_call_id"')
    more = done < task.steps
    message: dict[str, object] = {
        "role": "assistant",
        "content": turn_text(done) if more else final_text(task.steps),
        "refusal": None,
    }
    if more:
        function = {"name": task.tool, "arguments": f'{{"step":{done}}}'}
        message["tool_calls"] = [{"id": f"call_{done:05d}", "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if more else "stop", "logprobs": None}
    used = 100 + 300 * done
    return _json(
        {
            "id": f"chatcmpl-{task.steps}-{done}",
            "object": "chat.completion",
            "created": CREATED,
            "model": "fake",
            "choices": [choice],
            "usage": {"prompt_tokens": used, "completion_tokens": 120, "total_tokens": used + 120},
        }
    )


async def responses(request: web.Request) -> web.Response:
    """OpenAI's Responses: the whole conversation, or with `previous_response_id` what is new."""
    task, done = await _read(request, b'"function_call_output"')
    more = done < task.steps
    said = turn_text(done) if more else final_text(task.steps)
    text: dict[str, object] = {"type": "output_text", "text": said, "annotations": list[object]()}
    name = f"{task.steps}_{done}_{task.tool}"
    output: list[dict[str, object]] = [
        {"type": "message", "id": f"msg_{name}", "status": "completed", "role": "assistant", "content": [text]}
    ]
    if more:
        output.append(
            {
                "type": "function_call",
                "id": f"fc_{name}",
                "call_id": f"call_{done:05d}",
                "name": task.tool,
                "arguments": f'{{"step":{done}}}',
                "status": "completed",
            }
        )
    used = 100 + 300 * done
    return _json(
        {
            "id": f"resp_{name}",
            "object": "response",
            "created_at": CREATED,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": "fake",
            "output": output,
            "parallel_tool_calls": False,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": {
                "input_tokens": used,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 120,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used + 120,
            },
        }
    )


async def spans(request: web.Request) -> web.Response:
    """An OTLP collector that takes everything and keeps nothing."""
    await request.read()
    return web.Response(content_type="application/x-protobuf")


def app() -> web.Application:
    found = web.Application(client_max_size=64 * 2**20)
    found.router.add_post("/v1/chat/completions", chat)
    found.router.add_post("/v1/responses", responses)
    found.router.add_post("/v1/traces", spans)
    return found


if __name__ == "__main__":
    web.run_app(app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
