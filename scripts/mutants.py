"""Break the verifiers one small thing at a time, and see whether a test notices.

    python scripts/mutants.py [--only PATTERN] [--jobs N] [--seconds N] [--show]

A mutant is one change in the syntax tree of one module: a comparison turned round or moved by one, `and` for `or`, a
`not` left out, a number or a byte string changed, a truth value turned, a `raise` or a call for its effect left out.
What only people read (messages, what a check found and expected) is left alone. Each mutant is run in a process of
its own, forked from one that has loaded everything but our code, against the unit tests of its room, until the first
one fails. One that survives is either listed and explained in docs/mutants.md, by room, function and change, or the
run fails; so does an explanation of what does not survive any more.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "src"
DOCUMENT: Final = ROOT / "docs" / "mutants.md"
EXAMPLES: Final = "15"  # of each property: enough to notice what examples notice, in a tenth of the time
PATIENCE: Final = 8  # times as long as the room's tests took without a change: who takes longer loops for ever
LEAST: Final = 60  # seconds

TEE: Final = "tests/unit/tee"
DCAP: Final = tuple(
    f"{TEE}/dcap/test_{name}.py" for name in ("verify", "tcb", "quote", "collateral", "pck", "certification")
)
INTEL: Final = (*DCAP, f"{TEE}/sgx", f"{TEE}/tdx")
TESTS: Final = {  # the room of a module, the tests that can notice; the first that fits
    "enarx.tee.dcap": INTEL,
    "enarx.tee.sgx.registration": ("tests/unit/cli/test_registration.py", f"{TEE}/sgx", *DCAP),
    "enarx.tee.sgx": (f"{TEE}/sgx", *DCAP),
    "enarx.tee.tdx": (f"{TEE}/tdx", *DCAP),
    "enarx.tee.snp": (f"{TEE}/snp",),
    "enarx.tee.svsm": (f"{TEE}/svsm", f"{TEE}/snp"),
    "enarx.tee.remember": (f"{TEE}/test_remember.py", f"{TEE}/dcap/test_verify.py"),
    "enarx.tee.appraise": (f"{TEE}/test_appraise.py", f"{TEE}/dcap/test_verify.py", "tests/unit/steward/test_sgx.py"),
    "enarx.tee.documents": (f"{TEE}/dcap/test_verify.py", f"{TEE}/snp", f"{TEE}/sgx"),
    "enarx.pki.chain": ("tests/unit/pki", f"{TEE}/dcap/test_verify.py", f"{TEE}/snp"),
    "enarx.pki.crl": ("tests/unit/pki", f"{TEE}/dcap/test_verify.py", f"{TEE}/snp"),
}
LEFT_OUT: Final = {"simulator", "sigstruct", "idblock", "__init__", "claims"}  # forge, sign, list, tell people
FOR_PEOPLE: Final = {"found", "expected", "what", "why", "name"}  # arguments that become words
OUR_OWN_BUGS: Final = {"strict"}  # of `zip`: lengths that the parsers have fixed

COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change. `key` names it without line numbers, so that an explanation outlives an edit elsewhere."""

    module: str
    function: str
    line: int
    change: str
    number: int  # which of the module's changes
    twin: int  # which of those with the same words in the same function

    @property
    def key(self) -> str:
        where = f"{self.module.removeprefix('enarx.')}.{self.function}".rstrip(".")
        return f"{where}: {self.change}" + (f" #{self.twin + 1}" if self.twin else "")


class Mutator(ast.NodeVisitor):
    """Walks one module in a fixed order, counts the changes that are possible, and makes the one that is asked for."""

    def __init__(self, wanted: int | None = None) -> None:
        self.found: list[tuple[str, int, str]] = []
        self._wanted = wanted
        self._scope: list[str] = []

    def change(self, node: ast.AST, words: str, apply: Callable[[], None]) -> None:
        number = len(self.found)
        self.found.append((".".join(self._scope), getattr(node, "lineno", 0), words))
        if number == self._wanted:
            apply()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        self._scope.append(node.name)
        if isinstance(node, ast.FunctionDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
        self._block(node.body)
        self._scope.pop()

    def visit_Module(self, node: ast.Module) -> None:
        self._block(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "Literal" not in ast.unparse(node.annotation):
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What is raised is words; the raise itself is a statement of a block."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Words."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called.startswith("Remembered["):
            return  # how much is kept
        if called.rpartition(".")[2] in {"MalformedError", "UntrustedError", "RejectedError", "TypeError", "skip"}:
            return
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in FOR_PEOPLE | OUR_OWN_BUGS and not (
                called.endswith("lru_cache") and keyword.arg == "maxsize"
            ):
                self.visit(keyword.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]

            def turn(index: int = index, other: type[ast.cmpop] = other) -> None:
                node.ops[index] = other()

            self.change(node, f"`{short(ast.unparse(node))}` with {other.__name__}", turn)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        def turn() -> None:
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()

        self.change(node, f"`{short(ast.unparse(node))}` with {'or' if isinstance(node.op, ast.And) else 'and'}", turn)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):

            def turn() -> None:
                node.op = ast.UAdd()
                node.operand = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
                ast.fix_missing_locations(node)

            self.change(node, f"`{short(ast.unparse(node))}` without not", turn)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        changed: bool | int | bytes
        if isinstance(value, bool):
            changed = not value
        elif isinstance(value, int):
            changed = value + 1
        elif isinstance(value, bytes) and value:
            changed = bytes((value[0] ^ 1,)) + value[1:]
        else:
            return

        def turn() -> None:
            node.value = changed

        self.change(node, f"{value!r:.40} for {changed!r:.40}", turn)

    def generic_visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._block(value)
            elif name not in {"annotation", "returns", "decorator_list", "format_spec"}:
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, ast.AST):
                        self.visit(item)

    def _block(self, body: list[ast.stmt]) -> None:
        for index, statement in enumerate(body):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # documentation
            if isinstance(statement, ast.Raise) or (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Call)
                and not ast.unparse(statement.value.func).endswith((".skip", ".not_applicable"))
            ):

                def leave_out(index: int = index, statement: ast.stmt = statement) -> None:
                    body[index] = ast.copy_location(ast.Pass(), statement)

                self.change(statement, f"`{short(ast.unparse(statement))}` left out", leave_out)
            self.visit(statement)


def short(text: str) -> str:
    """One line of source that tells what it is, and no longer."""
    line = re.sub(r"\s+", " ", text).replace("`", "'")
    return line if len(line) <= 72 else f"{line[:71]}…"


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a changed tree."""

    def __init__(self, module: str, code: CodeType) -> None:
        self._module, self._code = module, code

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, path_of(fullname), loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        del spec

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102 - our own source with one change


def path_of(module: str) -> Path:
    return SOURCE / f"{module.replace('.', '/')}.py"


def modules() -> Iterator[str]:
    for room in TESTS:
        path = SOURCE / room.replace(".", "/")
        files = sorted(path.glob("*.py")) if path.is_dir() else [path_of(room)]
        for file in files:
            module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
            if file.stem not in LEFT_OUT and room_of(module) == room:  # and of no narrower one
                yield module


def mutants_of(module: str) -> list[Mutant]:
    mutator = Mutator()
    mutator.visit(ast.parse(path_of(module).read_text()))
    seen: dict[tuple[str, str], int] = {}
    found = []
    for number, (function, line, change) in enumerate(mutator.found):
        twin = seen.get((function, change), 0)
        seen[function, change] = twin + 1
        found.append(Mutant(module=module, function=function, line=line, change=change, number=number, twin=twin))
    return found


def run(mutant: Mutant | None, module: str) -> int:
    """In a fork: the exit code of pytest with this change, or with none."""
    import pytest

    if mutant is not None:
        tree = ast.parse(path_of(module).read_text())
        Mutator(mutant.number).visit(tree)
        sys.meta_path.insert(0, Loader(module, compile(tree, str(path_of(module)), "exec")))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
    options += ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
    return int(pytest.main([*options, *(str(ROOT / test) for test in tests_of(module))]))


def room_of(module: str) -> str:
    return next(room for room in TESTS if module.startswith(room))


def tests_of(module: str) -> list[str]:
    """Those of the module's room, its own first."""
    tests = TESTS[room_of(module)]
    own = f"test_{module.rpartition('.')[2]}.py"
    return sorted(tests, key=lambda test: not test.endswith(own))


def judged(
    mutants: Sequence[Mutant], jobs: int, seconds: float, limits: Mapping[str, float]
) -> Iterator[tuple[Mutant, str]]:
    """Each mutant and whether it was killed, survived, or hung; as many as the time allows. `limits` are of rooms."""
    end = time.monotonic() + seconds
    waiting, running = list(mutants), dict[int, tuple[Mutant, float]]()
    while waiting or running:
        while waiting and len(running) < jobs and time.monotonic() < end:
            mutant = waiting.pop()
            running[_fork(mutant, mutant.module)] = (mutant, time.monotonic())
        if not running:
            return
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            mutant, _ = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            yield mutant, "survived" if code == 0 else "hung" if code == -signal.SIGKILL else "killed"
            continue
        for pid, (mutant, begun) in running.items():
            if time.monotonic() - begun > limits[room_of(mutant.module)]:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _fork(mutant: Mutant | None, module: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(run(mutant, module))
    except BaseException:  # noqa: BLE001 - a change that breaks the import is noticed too
        os._exit(3)


def explained() -> set[str]:
    """The keys in docs/mutants.md: list items that begin with the key between double backticks."""
    return set(re.findall(r"^- ``(.+?)``", DOCUMENT.read_text(), re.MULTILINE)) if DOCUMENT.exists() else set()


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the verifiers and see whether the tests notice.")
    parser.add_argument("--only", default="", help="modules whose name matches this regular expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=3600, help="begin no further mutant after this time")
    parser.add_argument("--show", action="store_true", help="list the mutants and run nothing")
    options = parser.parse_args()
    chosen = [mutant for module in modules() if re.search(options.only, module) for mutant in mutants_of(module)]
    if options.show:
        print("\n".join(f"{mutant.module}:{mutant.line}: {mutant.key}" for mutant in chosen))
        return 0
    os.chdir(ROOT)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["EXAMPLES"] = EXAMPLES
    sys.path.insert(0, str(SOURCE))
    _warm()
    random.Random(0).shuffle(chosen)  # noqa: S311 - a fixed order that mixes the rooms, if time ends early
    limits: dict[str, float] = {}
    for room in sorted({room_of(mutant.module) for mutant in chosen}):
        begun = time.monotonic()
        _, status = os.waitpid(_fork(None, room), 0)
        limits[room] = max(LEAST, PATIENCE * (time.monotonic() - begun))
        if status:  # else every mutant would seem to be noticed
            print(f"{room}: its tests fail without any change: {' '.join(TESTS[room])}")
            return 1
    survived, killed, known = list[Mutant](), 0, explained()
    for mutant, outcome in judged(chosen, options.jobs, options.seconds, limits):
        killed += outcome != "survived"
        if outcome == "hung":  # told, for a machine that is too busy would hide survivors so
            print(f"hung {mutant.module}:{mutant.line} ``{mutant.key}``", flush=True)
        if outcome == "survived":
            survived.append(mutant)
            mark = "explained" if mutant.key in known else "SURVIVED"
            print(f"{mark} {mutant.module}:{mutant.line} ``{mutant.key}``", flush=True)
        if (killed + len(survived)) % 100 == 0:
            print(f"… {killed + len(survived)} of {len(chosen)}", file=sys.stderr, flush=True)
    tried = killed + len(survived)
    keys = {mutant.key for mutant in survived}
    stale = sorted(key for key in known - keys if key in {mutant.key for mutant in chosen} and tried == len(chosen))
    print(
        f"{tried} of {len(chosen)} mutants tried, {killed} noticed, {len(survived)} survived, {len(keys & known)} of them explained"
    )
    for key in stale:
        print(f"explained but noticed: {key}")
    return int(bool(keys - known or stale))


def _warm() -> None:
    """Load what no mutant changes, once."""
    import cryptography.hazmat.asn1
    import cryptography.x509
    import hypothesis
    import pytest

    assert all((cryptography.hazmat.asn1, cryptography.x509, hypothesis, pytest))
    assert not any(name.startswith("enarx") for name in sys.modules)


if __name__ == "__main__":
    sys.exit(main())
