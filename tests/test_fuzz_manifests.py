"""Damaged manifests: an artefact of its own type, or one line that names the file."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_artifacts import ENCODER, INDEX, MODEL, STORE

from simclr.artifacts import FORMAT, Artifact, PlanInfo
from simclr.errors import ArtifactError, ConfigError
from simclr.preprocess import Recipe

PLAN = PlanInfo(
    sha256="ab",
    size=9,
    precision="fp16",
    onnx_sha256="cd",
    profiles=((1, 8, 64),),
    tensorrt="10.13",
    cuda="13.0",
    driver="580",
    gpu="a GPU",
    compute_capability="9.0",
    fidelity=None,
    accepted=False,
)
ARTIFACTS = (ENCODER, MODEL, PLAN, STORE, INDEX)

strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, float("nan"), float("inf"), 1e308]),
    st.floats(),
    st.text(max_size=9),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.just("a\nb"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path] * bool(path) + [way for key, item in items for way in places(item, (*path, key))]


@st.composite
def changed_values(draw: st.DrawFn, whole: Any) -> Any:
    """A JSON value with up to three values dropped, renamed or replaced."""
    whole = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        ways = places(whole)
        if not ways:
            break
        *above, last = draw(st.sampled_from(ways))
        holder = whole
        for key in above:
            holder = holder[key]
        how = draw(st.sampled_from(["replace", "replace", "drop", "rename"]))
        if how == "replace" or isinstance(holder, list):
            holder[last] = draw(strange)
        else:
            value = holder.pop(last)
            if how == "rename":
                holder[draw(st.text(max_size=5))] = value
    return whole


def head(artifact: Artifact, values: dict[str, Any]) -> dict[str, Any]:
    """What a manifest begins with; the seal is that of these values, whatever they are."""
    seal = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {"simclr": artifact.KIND, "format": FORMAT} | ({"seal": seal} if artifact.SEALED else {})


@st.composite
def damaged(draw: st.DrawFn, artifact: Artifact) -> bytes:
    how = draw(st.sampled_from(["values", "values", "bytes", "deep", "twice", "digits"]))
    if how == "values":
        values = draw(changed_values(asdict(artifact)))  # type: ignore[call-overload]
        return json.dumps(head(artifact, values) | values).encode()
    whole = head(artifact, asdict(artifact)) | asdict(artifact)  # type: ignore[call-overload]
    text = json.dumps(whole).encode()
    if how == "deep":
        nested = b"[" * draw(st.sampled_from([90, 970, 985, 990, 100_000]))
        return text.replace(b'"sha256": "', b'"sha256": ' + nested + b'"', 1)
    if how == "twice":
        return text[:-1] + b', "width": ' + json.dumps(draw(strange)).encode() + b"}"
    if how == "digits":
        return text.replace(b'"format": 1', b'"format": ' + b"9" * 5000)
    harmed = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(harmed) - 1))
        match draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                harmed[place] ^= draw(st.integers(1, 255))
            case "cut":
                del harmed[place : place + draw(st.integers(1, 40))]
            case "insert":
                harmed[place:place] = draw(st.binary(max_size=8))
    return bytes(harmed)


def check_manifest(artifact: Artifact, data: bytes, path: Path) -> None:
    path.write_bytes(data)
    try:
        found = type(artifact).load(path)
    except ArtifactError as exc:
        line = str(exc)
        assert line.startswith(f"{path}: ") and len(line.splitlines()) == 1 and len(line) < 600
    else:
        assert type(found) is type(artifact)


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda artifact: artifact.KIND)
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(data=st.data())
def test_a_damaged_manifest_is_read_or_refused_in_one_line(
    artifact: Artifact, tmp_path: Path, data: st.DataObject
) -> None:
    check_manifest(artifact, data.draw(damaged(artifact)), tmp_path / "manifest.json")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 9000, b"\xff\xfe", b"null", b""])
def test_a_manifest_of_another_shape_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"^[^\n]*manifest\.json: [^\n]+$"):
        type(STORE).load(path)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(values=changed_values(asdict(Recipe())))
def test_a_changed_recipe_is_read_or_refused(values: Any) -> None:
    try:
        assert type(Recipe.from_dict(values)) is Recipe
    except (ArtifactError, ConfigError) as exc:
        assert str(exc)
