"""The reference, the JSON Schema, and what importing costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import attrs
import yaml

from moat_core.config import ConfigSchema, duration_s, json_schema, markdown_reference, option

PAGE = Path(__file__).parents[3] / "docs/config.md"


@attrs.frozen
class ProxyConfig:
    """Settings of the proxy."""

    port: int = option(8080, help="Port.")
    idle: float = option(90.0, help="Idle.", convert=duration_s, unit="s")
    hosts: tuple[str, ...] = option((), help="Hosts.")


def leaves(fields):
    """Yield every key, sections included."""
    for field in fields:
        yield field
        yield from leaves(field.fields or ())


def test_every_key_is_documented():
    """Each base key has a help text of at least a sentence."""
    for field in leaves(ConfigSchema().base):
        text = field.metadata.get("help", "")
        assert text.endswith("."), field.key
        assert len(text) > 20, field.key


def test_the_page_holds_the_reference_as_the_code_has_it():
    """The table in the docs is what the help texts give; else copy `markdown_reference` there."""
    assert markdown_reference(ConfigSchema().fields) in PAGE.read_text()


def test_the_examples_of_the_page_do_what_it_says(load, problems):
    """The good example loads, the bad one gives the shown problems, word for word."""
    page = PAGE.read_text()
    good, bad = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert load(good).core.name == yaml.safe_load(good)["name"]
    assert "\n".join(str(problem) for problem in problems(bad)) == shown.strip()


def test_the_example_for_plugin_authors_works(load):
    """The code on the page runs, and its section is read."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {"__name__": "page"}
    exec(compile(code, "page", "exec"), names)
    config = load("egress: {idle: 2m}", environ={"MOAT_EGRESS_PORT": "9000"}, schema=names["schema"])
    section = config.section(names["EgressConfig"])
    assert (section.port, section.idle) == (9000, 120.0)


def test_the_json_schema_knows_every_key():
    """Keys, descriptions, enums, defaults; nothing else is allowed at any level."""
    schema = ConfigSchema()
    schema.add_section("proxy", ProxyConfig, owner="proxy")
    made = json.loads(json.dumps(json_schema(schema)))
    assert made["$schema"].endswith("2020-12/schema")
    assert made["additionalProperties"] is False
    assert list(made["properties"]) == [field.key for field in schema.fields]
    assert all(each["description"] for each in made["properties"].values())
    assert made["properties"]["network"]["enum"] == ["bridge", "none"]
    assert made["properties"]["network"]["default"] == "bridge"
    assert made["properties"]["env"]["additionalProperties"] == {"type": "string"}
    assert made["properties"]["container"]["additionalProperties"] is False
    proxy = made["properties"]["proxy"]
    assert proxy["description"] == "Settings of the proxy."
    assert proxy["properties"]["port"] == {"type": "integer", "description": "Port.", "default": 8080}
    assert proxy["properties"]["idle"]["type"] == ["number", "string"]
    assert proxy["properties"]["hosts"] == {"type": "array", "items": {"type": "string"}, "description": "Hosts."}


def test_importing_the_config_does_not_import_yaml():
    """The command pays for YAML only when it reads a config."""
    code = "import sys, moat_core.config; print([name for name in ('yaml', 'difflib', 'anyio', 'asyncio', 'pluggy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
