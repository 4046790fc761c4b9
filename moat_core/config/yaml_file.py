"""From a file to a tree of values.

The tree is built from PyYAML's events, not from its constructor: nothing in the file can choose a class,
aliases cannot multiply, depth, number and size of values are bounded, and every value keeps its line and its
spelling.
The file lies in the workspace, where an agent may have written it.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import attrs

from moat_core.config.tree import DEPTH_LIMIT, Item, Problems, Source, classify
from moat_core.config.values import show
from moat_core.owners import mend, others_may_write

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE_LIMIT_BYTES", "decode", "parse_yaml", "read_limited", "read_text"]

FILE_LIMIT_BYTES = 1024 * 1024
"""A config file may have this much; a human's has some kilobytes."""
_ITEMS = 50_000
# YAML 1.2.2 §5.1, less the byte order mark. PyYAML's two parsers differ in what they say about the others.
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def read_text(path: Path, label: str, problems: Problems, *, private: bool) -> str | None:
    """Return the text of a file of the user's at PATH; ``None`` if there is none, or what is wrong was recorded.

    Args:
        private: It must be nobody else's to write.
    """
    descriptor = -1
    try:
        # Without O_NONBLOCK a FIFO of that name would wait for a writer that never comes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            problems.add(label, "It is not a regular file.", "Make it a YAML file, or remove it.")
            return None
        if private and (why := others_may_write(found, path)):
            problems.add(label, f"{why}, and it decides what runs may do.", mend(found, path))
            return None
        data = read_limited(descriptor, label, problems)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            problems.add(label, "It is a link to a file that does not exist.", "Mend or remove the link.")
        return None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or "unknown error"
        problems.add(label, f"It cannot be read: {reason}.", "Check its permissions and its path.")
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None if data is None else decode(data, label, problems)


def read_limited(descriptor: int, label: str, problems: Problems) -> bytes | None:
    """Return the content of an open regular file; ``None`` if it is too large, which is recorded."""
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(FILE_LIMIT_BYTES + 1)
    if len(data) > FILE_LIMIT_BYTES:
        problems.add(
            label,
            f"It is larger than {FILE_LIMIT_BYTES // 1024} KiB.",
            "A config file is a few kilobytes at most.",
        )
        return None
    return data


def decode(data: bytes, label: str, problems: Problems) -> str | None:
    """Return DATA as text; ``None`` if it is none that YAML allows, which is recorded."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add(f"{label}:{line}", f"Byte 0x{data[error.start]:02x} is not UTF-8.", "Save the file as UTF-8.")
        return None
    match = _UNREADABLE.search(text)
    if match:
        line = text.count("\n", 0, match.start()) + 1
        problems.add(
            f"{label}:{line}",
            f"The character U+{ord(match.group()):04X} may not stand in YAML.",
            'Remove it, or write it as an escape in double quotes: "\\u0007".',
        )
        return None
    return text


def parse_yaml(text: str, source: Source, problems: Problems) -> Item:
    """Return the mapping that TEXT holds; empty if there is nothing in it, or nothing that can be read."""
    import yaml  # 10 ms, for commands that read a config only

    builder = _Builder(source, problems)
    try:
        _feed(builder, text)
    except yaml.MarkedYAMLError as error:
        # The scanner reads ahead of its events and has limits of its own, other ones in each release. Ours come first:
        # what stands before the place where it gave up is judged by itself.
        ahead = _Builder(source, Problems())
        with suppress(yaml.YAMLError):
            _feed(ahead, text[: error.problem_mark.index] if error.problem_mark else "")
        if ahead.stopped is not None:
            problems.add(*ahead.stopped)
        else:
            _add_syntax_error(error, text, source.label, problems)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # PyYAML's own slips: chr() of an escape beyond Unicode, int() of an endless %YAML version …
        reason = " ".join(str(error).split())
        problems.add(source.label, f"The YAML cannot be read: {show(reason)}.", "Check the file with a YAML linter.")
    root = builder.root
    if root is None or root.kind in {"null", "broken"}:
        return Item("map", {}, source.label, source.prefix + source.label)
    if root.kind != "map":
        problems.add(
            root.where,
            f"A config is a mapping, not {root.describe()}.",
            "Write lines of the form `key: value`.",
        )
        return Item("map", {}, root.where, root.origin)
    return root


def _feed(builder: _Builder, text: str) -> None:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(text, Loader=loader):
        if not builder.feed(type(event).__name__, event):
            break


def _add_syntax_error(error: Any, text: str, label: str, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    number = (mark.line if mark else 0) + 1
    lines = text.splitlines()
    line = lines[number - 1] if number <= len(lines) else ""
    context = f" {error.context}" if error.context else ""
    hint = "Check the indentation, and quote text that holds one of : # { } [ ] , & * ! | > ' \" % @ `."
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in str(error.problem):
        hint = "Indent with spaces; YAML does not allow tabs."
    elif error.context_mark and error.context_mark.line + 1 != number:
        hint = f"It began in line {error.context_mark.line + 1}. {hint}"
    problems.add(f"{label}:{number}", f"The YAML cannot be read: {error.problem}{context}.", hint)


@attrs.define
class _Frame:
    kind: Literal["list", "map"]
    line: int
    items: list[Item] = attrs.field(factory=list)
    entries: dict[str, Item] = attrs.field(factory=dict)
    key: str | None = None
    key_line: int = 0
    has_key: bool = False


@attrs.define
class _Builder:
    """Puts events together to a tree, without recursion."""

    source: Source
    problems: Problems
    root: Item | None = None
    _stack: list[_Frame] = attrs.field(factory=list)
    _count: int = 0
    _documents: int = 0
    stopped: tuple[str, str, str] | None = None
    """Where, what and what to do, when a limit of ours was met."""

    def feed(self, name: str, event: Any) -> bool:
        """Take one event; returns whether to go on."""
        if name in {"StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"}:
            return True
        line = event.start_mark.line + 1
        if name == "DocumentStartEvent":
            self._documents += 1
            return self._documents == 1 or self._stop(line, "A second YAML document starts here.", "Remove the `---`.")
        if name in {"MappingEndEvent", "SequenceEndEvent"}:
            frame = self._stack.pop()
            self._put(self._item(frame.kind, frame.items if frame.kind == "list" else frame.entries, frame.line))
            return True
        self._count += 1
        if self._count > _ITEMS:
            return self._stop(line, f"It holds more than {_ITEMS} values.", "A config has some dozens.")
        return self._value(name, event, line)

    def _value(self, name: str, event: Any, line: int) -> bool:
        if name == "AliasEvent":
            self._add(line, f"The alias {show('*' + event.anchor)} cannot be used here.", "Write the value out.")
            self._put(self._item("broken", None, line))
            return True
        if event.anchor is not None:
            self._add(line, f"The anchor {show('&' + event.anchor)} cannot be used here.", "Write values out.")
        if event.tag is not None:
            self._add(line, f"The tag {show(event.tag)} cannot be used here.", "Remove it.")
        if name == "ScalarEvent":
            broken = event.tag is not None or event.anchor is not None
            self._put(self._item("broken", None, line) if broken else self._scalar(event, line))
            return True
        if len(self._stack) >= DEPTH_LIMIT:
            return self._stop(line, f"It is nested more than {DEPTH_LIMIT} levels deep.", "No key needs that.")
        self._stack.append(_Frame("map" if name == "MappingStartEvent" else "list", line))
        return True

    def _scalar(self, event: Any, line: int) -> Item:
        text = event.value
        if event.style:  # quoted, or a block; libyaml has "" for none
            kind, value = "text", text
        else:
            kind, value = classify(text)
        bad = next((char for char in text if char == "\0" or "\ud800" <= char <= "\udfff"), None)
        if bad is not None:
            # The text itself is not shown: it may be a secret.
            self._add(line, f"The text holds U+{ord(bad):04X}, which no program takes.", "Remove it.")
            kind = "broken"
        return attrs.evolve(self._item(kind, value, line), raw=text)

    def _put(self, item: Item) -> None:
        if not self._stack:
            self.root = item
            return
        frame = self._stack[-1]
        if frame.kind == "list":
            frame.items.append(item)
        elif not frame.has_key:
            self._start_entry(frame, item)
        else:
            frame.has_key = False
            if frame.key is not None:
                # The line of the key: a block list starts a line below, where nobody looks for it.
                at = self._item(item.kind, item.value, frame.key_line)
                frame.entries[frame.key] = attrs.evolve(at, raw=item.raw)

    def _start_entry(self, frame: _Frame, item: Item) -> None:
        line = int(item.where.rpartition(":")[2])
        frame.has_key, frame.key, frame.key_line = True, None, line
        if item.kind in {"list", "map"}:
            self._add(line, f"A key must be text, not {item.describe()}.", "Quote it if it is meant as text.")
        elif item.kind == "odd" and item.raw == "<<":
            self._add(line, "The merge key << cannot be used here.", "Write the keys out.")
        elif item.kind != "broken" and item.raw in frame.entries:
            first = frame.entries[item.raw].where
            self._add(line, f"The key {show(item.raw)} is given twice, first in {first}.", "Remove one of them.")
        elif item.kind != "broken":
            frame.key = item.raw

    def _item(self, kind: Any, value: Any, line: int) -> Item:
        where = f"{self.source.label}:{line}"
        return Item(kind, value, where, self.source.prefix + where)

    def _add(self, line: int, message: str, hint: str) -> None:
        self.problems.add(f"{self.source.label}:{line}", message, hint)

    def _stop(self, line: int, message: str, hint: str) -> Literal[False]:
        self._add(line, message, hint)
        self.stopped = (f"{self.source.label}:{line}", message, hint)
        return False
