"""The page of all errors is what the code says, and the errors are what the page promises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts.error_index import GENERAL, PAGE, Site, classes, page, sites
from stream_ann.errors import MissingExtraError, StreamAnnError

ROOT = Path(__file__).resolve().parent.parent
UPPER = [*sorted(p for d in ("pipelines", "commands") for p in (ROOT / d).rglob("*.py")), ROOT / "cli.py"]
BUILT_IN = re.compile(
    r"(?:Value|Runtime|Type|Key|Index|OS|IO|Lookup|Arithmetic|Assertion|Attribute|System)Error|Exception"
    r"|typer\.(?:BadParameter|Abort)|SystemExit|sys\.exit|NotImplementedError"
)


@pytest.fixture(scope="module")
def found() -> list[Site]:
    return sites()


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m scripts.error_index"


def test_every_class_of_the_tree_is_explained_and_used(found: list[Site]):
    names = [kind.__name__ for kind in classes()]
    assert names[0] == "StreamAnnError"
    assert set(GENERAL) == set(names[1:])
    text = PAGE.read_text(encoding="utf-8")
    for kind in classes()[1:]:
        assert f"\n## {kind.__name__}\n" in text
        assert kind.__doc__
        below = {one.__name__ for one in classes() if issubclass(one, kind)}
        assert any(site.kind in below for site in found), f"nothing raises {kind.__name__}"


def test_every_message_is_one_line_in_the_form_that_the_page_promises(found: list[Site]):
    assert len(found) > 400, "the code is not understood any more"
    for site in found:
        where = f"{site.module}:{site.line}: {site.what}"
        assert site.what, where
        assert "\n" not in site.what + site.remedy, where
        assert not site.what.endswith((".", "!", ":")), where
        assert not re.search(r"[^.]\.$", site.remedy), where
        # lower case, but for names
        assert not re.match(r"(?:The|There|Can|No|Not|Invalid|Failed|Error|Unable|It|A)\b", site.what), where


def test_a_wrong_option_says_what_it_may_be(found: list[Site]):
    says = re.compile(
        r"must|takes|need|got|allowed|at (?:least|most)|between|0 to|more than|is none|exclude|neither|one of"
    )
    silent = [s for s in found if s.kind == "UsageError" and not s.remedy and not says.search(s.what)]
    assert not silent, [f"{s.module}:{s.line}: {s.what}" for s in silent]


@pytest.mark.parametrize("path", UPPER, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_pipelines_raise_nothing_but_errors_of_the_page(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            if name == "AttributeError" and path.name in ("cli.py", "__init__.py"):
                continue  # of a module that imports when it is asked
            assert not BUILT_IN.fullmatch(name), f"{path}:{node.lineno} raises {name}"


def test_nothing_below_catches_everything_and_goes_on_in_silence():
    for path in sorted((ROOT / "commands").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}"
                assert not all(isinstance(one, ast.Pass) for one in node.body), f"{path}:{node.lineno}"


def test_a_message_and_its_remedy_are_joined_as_the_page_says():
    assert str(StreamAnnError("it fell", "pick it up")) == "it fell; pick it up"
    assert str(StreamAnnError("it fell")) == "it fell"
    assert str(MissingExtraError("web", "uvicorn")) == (
        "this needs 'uvicorn', which is not installed; run: pip install 'stream-ann[web]'"
    )


def test_values_and_helpers_are_followed(found: list[Site]):
    """Some that are made in roundabout ways: by a local function, from a variable, from a constant."""
    rows = {(site.kind, site.what, site.remedy) for site in found}
    assert (
        "CorruptWeightsError",
        "weights file '{origin}' is damaged or not safetensors: its header is not JSON",
        "fetch the file again, or restore it from where it came",
    ) in rows
    assert (
        "UnreachableError",
        "nothing listens at '{url}'",
        "check address and port, and that the camera is switched on",
    ) in rows
    assert any(kind == "CorruptWeightsError" and "SHA-256" in what for kind, what, _ in rows)
