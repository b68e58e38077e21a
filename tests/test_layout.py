"""Who may import whom; what runs without torch; the map and `__all__` agree with the tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import run

import simclr

PACKAGE = Path(simclr.__file__).parent
ROOT = PACKAGE.parent

LEAVES = {"errors", "cpus", "free_memory", "stopping"}
"""Everything may use these; they use nothing."""

MAY_IMPORT = {
    "images": set(),
    "preprocess": set(),
    "cache_folder": set(),
    "sources": {"images", "artifacts", "cache_folder"},
    "artifacts": {"preprocess"},
    "html_page": {"artifacts"},
    "encoder": {"artifacts", "preprocess"},
    "weights_file": {"encoder"},
    "weights": {"encoder", "weights_file"},
    "runtime": {"images", "preprocess", "artifacts", "cache_folder"},
    "pretrain": {"images", "sources", "preprocess", "artifacts", "encoder", "weights"},
    "export": {
        "images",
        "sources",
        "preprocess",
        "artifacts",
        "encoder",
        "runtime",
        "weights",
        "weights_file",
    },
    "embed": {"images", "sources", "preprocess", "artifacts", "runtime", "cache_folder", "html_page"},
    "classify": {"images", "sources", "preprocess", "artifacts", "runtime", "embed", "html_page"},
    "serve": {"images", "preprocess", "artifacts", "runtime", "embed", "classify", "cache_folder"},
    "progress": set(),
    "demo": {"progress", "pretrain", "export", "embed", "classify", "runtime"},
    "benchmark": {"runtime"},
    "doctor": {"pretrain", "runtime"},
    "console": set(),
    "verbs": {
        "artifacts",
        "html_page",
        "console",
        "progress",
        "pretrain",
        "export",
        "embed",
        "classify",
        "serve",
        "runtime",
        "benchmark",
        "demo",
        "doctor",
    },
    "cli": {"verbs"},
    "__main__": {"cli"},
    "__init__": {"embed", "runtime"},
}
TORCH = {"encoder", "weights", "weights_file", "pretrain", "export"}
"""The only parts that may say torch, torchvision or timm."""

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def part_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def parts_used(source: str) -> set[str]:
    """Names of the parts of `simclr` that a source file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the house writes absolute imports"
            package, *below = (node.module or "").split(".")
            if package == "simclr":
                names |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("simclr.")}
    return names & set(MAY_IMPORT) | names & LEAVES


def test_parts_used_sees_every_way_of_importing():
    source = (
        "import simclr.embed.store\nfrom simclr.export import x\ndef f():\n    from simclr import runtime\n"
    )
    assert parts_used(source) == {"embed", "export", "runtime"}


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_its_part_may(file):
    part = part_of(file)
    used = parts_used((PACKAGE / file).read_text()) - {part}
    if part in LEAVES:
        assert used == set()
    else:
        assert used <= MAY_IMPORT[part] | LEAVES


@pytest.mark.parametrize("file", [file for file in FILES if part_of(file) not in TORCH])
def test_only_training_and_export_say_torch(file):
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not {module.split(".")[0] for module in modules} & {"torch", "torchvision", "timm"}


def modules_loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "timm", "faiss", "onnxruntime", "numpy", "PIL", "pyarrow", "typer"}
    assert not modules_loaded_by("import simclr") & heavy


def test_the_command_line_starts_without_torch_faiss_or_onnxruntime():
    assert not modules_loaded_by("import simclr.cli") & {"torch", "timm", "faiss", "onnxruntime", "pyarrow"}


def test_embedding_and_searching_run_without_torch(model, photos, tmp_path):
    code = f"""
from pathlib import Path
from simclr import Encoder, Index, Store
from simclr.embed import Lane, build_index, embed_sources
encoder = Encoder.open({str(model)!r})
embed_sources([Path({str(photos)!r})], Path({str(tmp_path / "o.store")!r}), Lane(encoder), model=encoder.folder)
build_index(Store.open({str(tmp_path / "o.store")!r}), Path({str(tmp_path / "o.faiss")!r}))
assert Index.open({str(tmp_path / "o.faiss")!r}).search({str(photos / "warm/red_light.png")!r})[0][0].similarity > 0.999
"""
    loaded = modules_loaded_by(code)
    assert {"faiss", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "torchvision", "timm", "onnx"}


def test_a_search_does_not_wait_for_pandas(model, photos, tmp_path):
    """Arrow imports it to convert arrays, where it is there; that takes longer than the search."""
    pytest.importorskip("pandas")
    run("embed", photos, "--index", tmp_path / "o.faiss", "--model", model)
    code = f"""
from simclr import Index
index = Index.open({str(tmp_path / "o.faiss")!r})
index.search([3, {str(photos / "warm/red_light.png")!r}], where="modified > '2020-01-01'")
"""
    assert "pandas" not in modules_loaded_by(code)


@pytest.mark.parametrize("module", ["simclr", "simclr.pretrain", "simclr.embed", "simclr.export"])
def test_every_name_in_all_exists(module):
    imported = __import__(module, fromlist=["__all__"])
    for name in imported.__all__:
        assert getattr(imported, name) is not None


def test_the_map_names_every_file_of_the_package():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    missing = [file for file in FILES if Path(file).name not in text and not file.endswith("__init__.py")]
    assert missing == []


def test_the_map_names_no_file_that_is_gone():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text.split("```")[1]
    named = {word for word in tree.split() if word.endswith(".py")}
    assert named <= {Path(file).name for file in FILES}
