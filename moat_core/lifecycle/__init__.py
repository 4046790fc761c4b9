"""The life of a run: `execute` is its story, `run` what hooks are given, `teardown` how everything is undone."""

from moat_core.lifecycle.execute import Body, execute
from moat_core.lifecycle.open import Opened
from moat_core.lifecycle.run import GRACE_S, Outcome, Run, RunResult
from moat_core.lifecycle.teardown import UndoStack

__all__ = ["GRACE_S", "Body", "Opened", "Outcome", "Run", "RunResult", "UndoStack", "execute"]
