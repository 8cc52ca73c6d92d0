"""The page of all errors, docs/errors.md, made from the code.

Every place that makes an error of the tree in ``stream_ann/errors.py`` is found in the syntax tree, and its message and
remedy are written down with names in braces where values stand. ``python -m scripts.error_index`` writes the page;
``--check`` only compares, and fails where it is not what the code says.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stream_ann import errors
from stream_ann.errors import StreamAnnError

__all__ = ["GENERAL", "PAGE", "Site", "classes", "page", "sites"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("stream_ann", "pipelines", "commands")
UNKNOWN = "…"

GENERAL = {
    "SourceError": "See whether another program can read the source.",
    "SourceNotFoundError": "Check how the name is written; quote patterns, so that the shell leaves them alone.",
    "UnsupportedSourceError": "Convert it to H.264 in mp4, or set the camera to H.264.",
    "AccessDeniedError": "Check user, password and the rights that they have on the device.",
    "UnreachableError": "Check the address, the network in between, and that the device is switched on.",
    "SourceTimeoutError": "A live source is opened again by itself; give slow ones more time with the timeout options.",
    "DisconnectedError": "A live source is opened again by itself; if it happens often, look at the network.",
    "DecodeError": "Nothing: the frame is counted as corrupt, the run goes on. Look at the source if there are many.",
    "WeightsError": "`stream-ann weights verify` says what is wrong with them.",
    "UnknownWeightsError": "`stream-ann weights list` says which there are.",
    "CardError": "Take the card that was written with the weights.",
    "CorruptWeightsError": "Fetch the file again.",
    "OutputError": "See whether there is room, and whether you may write there.",
    "ManifestError": "Go on with the job whose manifest it is, or begin anew with `--overwrite`.",
    "TrainingError": "Resume from another checkpoint, or train anew into another folder.",
    "DeviceError": "`stream-ann doctor` says what there is; `--device cpu` works everywhere.",
    "MissingExtraError": "Install the extra that is named.",
    "ResourceError": "Free some of what ran out, or ask for less: smaller weights, fewer sources or workers.",
    "UsageError": "Change the option; the message says what it may be.",
}
"""What to do about the errors of a class whose message does not say it better."""

INTRO = """\
# Errors and what to do about them

Every expected error is one line on standard error: `error: WHAT; REMEDY`. Search this page for the words of yours;
names in braces stand for what is in your message, and … for any text. `stream-ann -v COMMAND` shows where an error
comes from. In Python each is an exception of the class in the heading, all from `stream_ann.errors`, with `what` and
`remedy` as attributes.

This page is made from the code by `python -m scripts.error_index`.

## Exit codes

| code | means |
|---|---|
| 0 | done |
| 1 | an error of this page ended the command, or something failed on the way; or a check found something wrong |
| 2 | the command line is wrong: no such command or option, a value of the wrong kind, an argument missing |
| 130 | interrupted, by Ctrl-C or SIGTERM; what was written is whole |

Anything else that is printed, a traceback above all, is a fault of stream-ann: please report it.
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the code that makes an error."""

    kind: str
    """Name of the error's class."""
    what: str
    """Its message, with names in braces where values stand."""
    remedy: str
    """What to do about it, likewise; empty where nothing is said."""
    module: str
    """Path of the module from the project's folder."""
    line: int
    """Line in it."""


def classes() -> list[type[StreamAnnError]]:
    """All classes of the tree, each before those derived from it."""
    found: list[type[StreamAnnError]] = []

    def visit(kind: type[StreamAnnError]) -> None:
        found.append(kind)
        for below in kind.__subclasses__():
            if below.__module__ == errors.__name__:
                visit(below)

    visit(StreamAnnError)
    return found


def sites() -> list[Site]:
    """Every place that makes an error of the tree, by module and line."""
    found: list[Site] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found += _Module(path).sites()
    return found


class _Module:
    """One module, and the texts that names stand for in it."""

    def __init__(self, path: Path) -> None:
        self._name = str(path.relative_to(ROOT))
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._kinds = {kind.__name__ for kind in classes()}
        self._constants = _texts(self._tree.body)
        functions = [node for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef)]
        self._functions = functions
        # functions that only make an error of what they are told: each call of one is a message of its own
        self._makers = {f.name: made for f in functions if (made := self._made(f)) is not None}

    def sites(self) -> list[Site]:
        found = []
        inside = {id(node) for function, call in self._makers.values() for node in ast.walk(call)}
        for scope, call in self._calls():
            name = _called(call)
            if name not in self._kinds and name not in self._makers:
                continue
            names = {**self._constants, **_texts(scope.body)} if scope is not None else self._constants
            if name in self._kinds and id(call) not in inside:
                found.append(self._site(name, call, call, names))
            elif name in self._makers:
                function, made = self._makers[name]
                given = {a.arg: value for a, value in zip(function.args.args, call.args, strict=False)}
                texts = {key: _template(value, names) for key, value in given.items()}
                found.append(self._site(_called(made), made, call, {**self._constants, **_texts(function.body)}, texts))
        return sorted(found, key=lambda site: site.line)

    def _site(
        self,
        kind: str,
        call: ast.Call,
        place: ast.Call,
        names: Mapping[str, ast.expr],
        given: Mapping[str, str] | None = None,
    ) -> Site:
        if kind == "MissingExtraError":
            what = "this needs '{module}', which is not installed"
            return Site(kind, what, "run: pip install 'stream-ann[{extra}]'", self._name, place.lineno)
        texts = [_template(argument, names, given) for argument in call.args[:2]]
        what, remedy = (" ".join(text.split()) for text in (*texts, "", "")[:2])
        return Site(kind, what, remedy, self._name, place.lineno)

    def _made(self, function: ast.FunctionDef) -> tuple[ast.FunctionDef, ast.Call] | None:
        returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        if len(returns) == 1 and isinstance(returns[0], ast.Call) and _called(returns[0]) in self._kinds:
            parameters = {argument.arg for argument in function.args.args} - {"self"}
            used = {node.id for node in ast.walk(returns[0]) if isinstance(node, ast.Name)}
            if parameters and parameters <= used:
                return function, returns[0]
        return None

    def _calls(self) -> Iterator[tuple[ast.FunctionDef | None, ast.Call]]:
        """Every call, with the innermost function around it."""
        around: dict[int, ast.FunctionDef] = {}
        for function in self._functions:  # outer ones come before inner ones
            around |= {id(node): function for node in ast.walk(function)}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield around.get(id(node)), node


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _texts(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """The texts that are assigned to names anywhere in a body; of several for one name, the last."""
    found: dict[str, ast.expr] = {}
    for statement in body:
        for node in ast.walk(statement):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(node.value, ast.Constant | ast.JoinedStr | ast.IfExp)
            ):
                found[node.targets[0].id] = node.value
    return found


def _template(value: ast.expr, names: Mapping[str, ast.expr], given: Mapping[str, str] | None = None) -> str:
    """A text as it is written, with names in braces where values stand."""
    given = given or {}
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(_template(part, names, given) for part in value.values)
    if isinstance(value, ast.FormattedValue):
        return _template(value.value, names, given)
    if isinstance(value, ast.Name):
        if value.id in given:
            return given[value.id]
        known = names.get(value.id)
        if known is not None and known is not value and not _mentions(known, value.id):
            return _template(known, {k: v for k, v in names.items() if k != value.id}, given)
        return f"{{{value.id.strip('_')}}}"
    if isinstance(value, ast.Attribute):
        return f"{{{value.attr.strip('_')}}}"
    if isinstance(value, ast.IfExp):
        return " | ".join(dict.fromkeys(_template(one, names, given) for one in (value.body, value.orelse)))
    if isinstance(value, ast.BoolOp):
        return " | ".join(dict.fromkeys(_template(one, names, given) for one in value.values))
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _template(value.left, names, given) + _template(value.right, names, given)
    if isinstance(value, ast.Call) and _called(value) == "nearest":
        return "did you mean '{known}'? | known: …"
    if isinstance(value, ast.Call) and len(value.args) == 1 and _called(value) in ("str", "repr", "clean", "shown"):
        return _template(value.args[0], names, given)
    return UNKNOWN


def _mentions(value: ast.expr, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(value))


def page() -> str:
    """The whole page, as Markdown."""
    parts = [INTRO]
    all_sites = sites()
    for kind in classes()[1:]:
        own = sorted({(site.what, site.remedy) for site in all_sites if site.kind == kind.__name__})
        above = kind.__mro__[1]
        of = "" if above is StreamAnnError else f" A `{above.__name__}`."
        doc = (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()
        parts.append(f"## {kind.__name__}\n\n{' '.join(doc.split())}{of} {GENERAL[kind.__name__]}\n")
        if own:
            rows = "\n".join(f"| {_cell(what)} | {_cell(remedy)} |" for what, remedy in own)
            parts.append(f"| message | remedy |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("|", "or").replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")
    return plain.replace("<", "&lt;")


def main() -> int:
    """Write the page, or with ``--check`` compare it; the exit code."""
    new = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == new
        print("docs/errors.md is what the code says" if same else "run: python -m scripts.error_index")
        return 0 if same else 1
    PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(sites())} places in {len(classes()) - 1} classes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
