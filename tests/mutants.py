"""Do the tests notice? A mutant is a file of simclr/pretrain/ with one thing changed; the file's own tests must fail on it.

    python tests/mutants.py                 all of EQUIVALENT's files
    python tests/mutants.py lars            one of them

A mutant that survives is a test that is missing, or it is equivalent: EQUIVALENT says why nothing can tell it apart.
Nothing is written. One process loads torch and pytest and forks for each mutant; the fork imports the changed text.
"""

import ast
import copy
import gc
import importlib
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = "test_memory_grows_with_the_batch_and_not_with_its_square"
"""A minute long; whatever it notices, others do."""
SECONDS = 60
"""Of a core's time, after which a mutant counts as noticed: it runs for ever."""

NEGATIVE = "start - rows.stop is the same place, counted from the end"
GROWS = "counted from the end; the last slice is empty, and out= lets it grow over the same memory"
NORMALIZE = "autocast lowers nothing in normalize; the block is for devices that torch may add"
STATIC = "torch takes it from the class, where a function is as good"

EQUIVALENT: dict[str, dict[str, str]] = {
    "loss": {
        "unit_rows: {with torch.autocast(z_ND.device.type, enabled=False) -> if True}:": NORMALIZE,
        "unit_rows: with torch.autocast(z_ND.device.type{, enabled=False -> }):": NORMALIZE,
        "unit_rows: with torch.autocast(z_ND.device.type, enabled={False -> True}):": NORMALIZE,
        "unit_rows: return F.normalize(z_ND if z_ND.dtype == torch.float64 else z_ND.float(){, dim=1 -> })": (
            "1 is its default"
        ),
        "log_sums: torch.logsumexp(logits_RN, dim=1, out=lse_R[start - {rows.start -> rows.stop}:stop - rows.start])": NEGATIVE,
        "log_sums: torch.logsumexp(logits_RN, dim=1, out=lse_R[start - rows.start:stop - {rows.start -> rows.stop}])": GROWS,
        "row_gradients: torch.mm(weights_RN, z_ND, out=grad_RD[start - {rows.start -> rows.stop}:stop - rows.start])": NEGATIVE,
        "row_gradients: torch.mm(weights_RN, z_ND, out=grad_RD[start - rows.start:stop - {rows.start -> rows.stop}])": GROWS,
        "row_gradients: {@staticmethod -> }def forward(ctx: Any, z_ND: Tensor, temperature: float, decoupled: bool) -> Tensor:": STATIC,
        "forward: @{staticmethod @ -> }once_differentiable": STATIC,
        "_logits: logits_RN.diagonal(start {+ -> -} away).fill_(-torch.inf)": "away is both -B and B",
    },
    "lars": {
        "_trust_ratios: return list({ratio.unbind() -> ratio})": "list cuts a tensor as unbind does",
    },
    "schedule": {
        "warmup_steps: return int(round(images * epochs, 6) /{/ -> } batch_size)": (
            "int cuts off what is left; a quotient below a whole number is not rounded up to it"
        ),
    },
}
"""File -> mutant -> why no test can notice it."""

OTHERS: dict[type[ast.AST], tuple[type[Any], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div, ast.Mult),
    ast.LShift: (ast.RShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
"""What may stand for an operator."""

MODULES = ("torch", "math", "F")
"""Not objects whose method may be left out."""
SYMMETRIC = ("max", "min")
"""Functions whose arguments may change places."""


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of one node, itself aside from its parts."""
    match node:
        case ast.ClassDef():
            return
        case ast.FunctionDef():
            yield from fewer(node, "decorator_list")
            return
        case ast.Return(ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.With():
            yield ast.If(ast.Constant(True), node.body, [])
        case ast.Continue():
            yield ast.Break()
        case ast.If() | ast.IfExp():
            yield but(node, test=ast.UnaryOp(ast.Not(), node.test))
    match node:
        case ast.stmt():
            yield ast.Pass()
        case ast.operator() | ast.boolop() | ast.cmpop():
            yield from (other() for other in OTHERS.get(type(node), ()))
        case ast.BinOp():
            yield from (node.left, node.right)
        case ast.BoolOp():
            yield from node.values
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float(value)):
            yield ast.Constant(value * 1.01 or 0.01)
        case ast.Constant(str(value)):
            yield ast.Constant(value + "!")
        case ast.Call():
            yield from fewer(node, "args")
            yield from fewer(node, "keywords")
            for i in range(0 if ast.unparse(node.func) in SYMMETRIC else len(node.args) - 1):
                yield but(node, args=[*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]])
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in MODULES:
                yield node.func.value
        case ast.Subscript():
            yield node.value
        case ast.Slice():
            yield from (but(node, lower=None), but(node, upper=None))
        case ast.Attribute(attr="start" | "stop" as side):
            yield but(node, attr={"start": "stop", "stop": "start"}[side])
        case ast.Tuple() | ast.List():
            yield from fewer(node, "elts")
        case ast.comprehension():
            yield from fewer(node, "ifs")


def but(node: ast.AST, **fields: object) -> ast.AST:
    """The same node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def fewer(node: ast.AST, field: str) -> Iterator[ast.AST]:
    """The same node without one of the things in a list, for each of them."""
    things = getattr(node, field)
    for i in range(len(things)):
        yield but(node, **{field: things[:i] + things[i + 1 :]})


def every_place(node: ast.AST) -> Iterator[None]:
    """Pauses whenever the tree below this node is changed in one place; what nothing runs is left alone."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        many = isinstance(value, list)
        for i, part in enumerate(value if many else [value]):
            if not isinstance(part, ast.AST) or is_only_read(part):
                continue
            for variant in variants(part):
                setattr(node, field, [*value[:i], variant, *value[i + 1 :]] if many else variant)
                yield
            setattr(node, field, value)
            yield from every_place(part)


def is_only_read(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant()):
            return True
        case ast.FunctionDef(decorator_list=[ast.Name("overload")]):
            return True
    return False


def mutants(source: str) -> dict[str, str]:
    """Name -> text of every mutant of a file."""
    tree = ast.parse(source)
    plain = ast.unparse(tree)
    texts = dict.fromkeys(ast.unparse(tree) for _ in every_place(tree))
    named = {name_of(plain, text): text for text in texts if text != plain}
    assert len(named) == len(texts.keys() - {plain})
    return named


def name_of(plain: str, text: str) -> str:
    """The function and the line, with {what was there -> what is there now}."""
    was, now = (re.findall(r"[\w.]+|\W", whole) for whole in (plain, text))
    start = alike(was, now)
    before, was, now = "".join(was[:start]), was[start:], now[start:]
    end = alike(was[::-1], now[::-1])
    after = "".join(was[len(was) - end :])
    gone, here = (" ".join("".join(words[: len(words) - end]).split()) for words in (was, now))
    line, rest = before.rpartition("\n")[2], after.partition("\n")[0]
    where = re.findall(r"^ *def (\w+)", before, re.MULTILINE)[-1] if line.startswith(" ") else "top"
    return f"{where}: {line.lstrip()}{{{gone} -> {here}}}{rest}"


def alike(one: list[str], other: list[str]) -> int:
    """How many words they begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def passes(name: str, text: str, *, quiet: bool = True) -> bool:
    """Whether the tests of simclr/pretrain/NAME.py pass with this text in its place."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        if quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
        code, read = compile(text, f"{name}.py", "exec"), SourceFileLoader.get_code
        mutated = f"simclr.pretrain.{name}"
        SourceFileLoader.get_code = lambda self, module: code if module == mutated else read(self, module)
        tests = f"{ROOT}/tests/pretrain/test_{name}.py"
        words = ["-qx", "--no-header", "--assert=plain", "-p", "no:cacheprovider", "-k", f"not {LEFT_OUT}"]
        os._exit(pytest.main([*words, tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def as_expected(name: str) -> bool:
    """Whether exactly those mutants of a file survive that are listed; says which do not do as expected."""
    started = time.monotonic()
    source = (ROOT / f"simclr/pretrain/{name}.py").read_text()
    assert passes(name, source, quiet=False), "the tests fail on the file as it is"
    alive, listed = set(), set(EQUIVALENT[name])
    texts = mutants(source)
    for mutant, text in texts.items():
        if passes(name, text):
            alive.add(mutant)
            if mutant not in listed:
                print(f"{name}: survives: {mutant}", flush=True)
    for mutant in listed - alive:
        print(f"{name}: listed as equivalent, but {'killed' if mutant in texts else 'not there'}: {mutant}")
    print(
        f"{name}: {len(texts)} mutants, {len(texts) - len(alive)} killed, {len(alive & listed)} equivalent; "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return alive == listed


def main(names: list[str]) -> int:
    """Loads what the forks then find loaded: all that the tests import, but for simclr/pretrain/ itself."""
    for module in ("conftest", "simclr.export.measure", "simclr.pretrain"):
        importlib.import_module(module)
    for module in [module for module in sys.modules if module.startswith(("simclr.pretrain", "conftest"))]:
        del sys.modules[module]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.freeze()
    return 0 if all([as_expected(name) for name in names]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(EQUIVALENT)))
