"""`/docs`: the OpenAPI description as one plain page, with nothing loaded from anywhere else."""

from __future__ import annotations

import html
import json
from typing import Any


def docs_page(openapi: dict[str, Any]) -> str:
    """Write an OpenAPI description as HTML: each operation with its body and answers, then each schema."""
    title, version = html.escape(openapi["info"]["title"]), html.escape(openapi["info"]["version"])
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        f"<details id='{html.escape(name)}'><summary><code>{html.escape(name)}</code></summary>"
        f"<pre>{html.escape(json.dumps(schema, indent=2))}</pre></details>"
        for name, schema in openapi["components"]["schemas"].items()
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><h1>{title} {version}</h1><p>{html.escape(openapi['info']['description'])}</p>"
        f"<p>For programs: <a href='/openapi.json'>openapi.json</a></p>{operations}<h2>Schemas</h2>{schemas}</html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    answers = "".join(
        f"<li>{html.escape(status)} {html.escape(answer['description'])} "
        f"{_link(answer.get('content', {}).get('application/json', {}).get('schema', {}))}</li>"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation.get('description', ''))}"
        f"</p>{'<p>Body: ' + _link(body) + '</p>' if body else ''}<ul>{answers}</ul>"
    )


def _link(schema: dict[str, Any]) -> str:
    name = html.escape(schema.get("$ref", "").rsplit("/", 1)[-1])
    return f"<a href='#{name}'><code>{name}</code></a>" if name else ""
