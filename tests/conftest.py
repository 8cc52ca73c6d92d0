"""What all tests share."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.labelling import Jobs

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
THREAD_PREFIX = "stream-ann"
"""Every thread of the library has a name that starts with this."""


left_out: Counter[str] = Counter()
"""How many long tests of each file were not run."""


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for what tests start, too: the cores are taken by the others
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose program or GPU is not there, and say which; where they must run, they fail."""
    no_gpu = pytest.mark.skip(reason="needs an NVIDIA GPU")
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available() and os.environ.get("REQUIRE_CUDA") != "1":
            item.add_marker(no_gpu)
        for mark in item.iter_markers("tool"):
            for tool in mark.args:
                if shutil.which(tool) is None and not IN_CI:
                    item.add_marker(pytest.mark.skip(reason=f"needs the program '{tool}'"))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    left_out.update(item.nodeid.split("::")[0] for item in items if item.get_closest_marker("long"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With several processes, each has deselected the same: the one that reports hears of it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    counts: dict[str, int] = getattr(node, "workeroutput", {}).get("left_out", {})
    left_out.update({name: count for name, count in counts.items() if name not in left_out})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if left_out:
        files = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items()))
        terminalreporter.write_line(f"Left out, for make faults, make fuzz and make soak: the long tests in {files}")


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what engines compile out of the user's cache folder, and what is there out of the tests.

    All processes of a run share it, as those of a user do: what one has compiled the others read.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has one in there
    folder = folder / "cache-of-the-run"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Starts ``stream-ann`` in processes that need not import everything anew."""
    from tests.labelling import Jobs

    started = Jobs(tmp_path_factory.mktemp("jobs"))
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves one of the library's threads running."""
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + 2.0
    while True:
        left = [t.name for t in set(threading.enumerate()) - before if t.name.startswith(THREAD_PREFIX)]
        if not left or time.monotonic() > deadline_s:
            break
        time.sleep(0.01)
    assert not left, f"threads left behind: {left}"
