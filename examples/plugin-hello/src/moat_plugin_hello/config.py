"""The section ``hello`` of ``agent.yaml``."""

from __future__ import annotations

import attrs

from moat_core.config import option

__all__ = ["HelloConfig"]


@attrs.frozen
class HelloConfig:
    """How runs are greeted."""

    word: str = option("Hello", help="The first word of the greeting.", widens=False)
    loud: bool = option(False, help="Use capitals.", widens=False)
    guest_book: bool = option(
        False, help="Write down who came and how they left.", widens="what a run leaves behind in the state folder"
    )

    def greeting(self, name: str) -> str:
        """Return the greeting for NAME."""
        text = f"{self.word}, {name}!"
        return text.upper() if self.loud else text
