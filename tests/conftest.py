"""What every test shares: one thread a process, no network, and no test that is skipped unseen."""

import contextlib
import gc
import os
import sys

import hypothesis
import pytest

# Before anything imports torch or huggingface_hub, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Nothing is freed while test files are imported, but each collection of garbage would walk all that they have made.
gc.disable()

# timm and lmms-eval import it where it is installed; after torch and transformers that takes four times as long, since
# it looks through all modules for each of its classes. A process that only hands tests out (``-n``) imports neither.
if "PYTEST_XDIST_WORKER" in os.environ or not any(word.startswith("-n") for word in sys.argv):
    with contextlib.suppress(ImportError):
        import wandb  # noqa: F401

# No test is about how long one example takes, and a busy machine must not fail one.
hypothesis.settings.register_profile("lare", deadline=None)
hypothesis.settings.load_profile("lare")

NOT_INSTALLABLE = ("GPU", "this transformers has no")
"""In a skipped test's reason: what the machine or the newest release lacks."""


def pytest_collection_finish() -> None:
    """Keep what all test files imported out of every later collection of garbage, each of which would walk it."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Under ``CI=true`` a skipped test fails: CI installs whatever can be installed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr
        if not any(words in reason for words in NOT_INSTALLABLE):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} must not be skipped under CI=true: {reason}"
    return report
