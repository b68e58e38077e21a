"""What the routes that read their bodies themselves say of them in OpenAPI."""

from typing import Any

from pydantic import BaseModel


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": kind.model_json_schema()}},
        }
    }


def json_or_form(kind: type[BaseModel], *, several: bool) -> dict[str, Any]:
    """For OpenAPI: JSON, or a form with the same fields and files."""
    found = json_body(kind)
    schema = kind.model_json_schema()
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    if several:
        file = {"type": "array", "items": file}
    names = ("file", "unlike_file") if several else ("file",)
    form = schema | {"properties": schema["properties"] | dict.fromkeys(names, file), "required": []}
    found["requestBody"]["content"]["multipart/form-data"] = {"schema": form}
    return found
