"""The config: what may be set (`ConfigSchema`), what is (`Config`), and how it is read (`load_config`).

Plugins need `option` for the fields of their section, `BadValue` for checks of their own, and
`Config.section`.
"""

from moat_core.config.ceiling import Ceiling
from moat_core.config.core import ContainerConfig, CoreConfig, HistoryConfig, HooksConfig
from moat_core.config.flags import parse_env_flag, parse_mount_flag, parse_port_flag
from moat_core.config.json_schema import json_schema
from moat_core.config.judges import Baseline, above, only, overrides
from moat_core.config.load import Trust, distrust, load_config, option_overrides, user_config_path
from moat_core.config.options import FieldSpec, option
from moat_core.config.reference import markdown_reference
from moat_core.config.schema import Config, ConfigSchema, Section
from moat_core.config.values import (
    WORKSPACE,
    BadValue,
    check_endpoint,
    check_env_name,
    check_env_value,
    check_image,
    check_name,
    check_port,
    duration_s,
    nearest,
    show,
    size_bytes,
)
from moat_core.config.widening import Widening
from moat_core.config.workspace_file import FILE_NAMES, ConfigFile

__all__ = [
    "FILE_NAMES",
    "WORKSPACE",
    "BadValue",
    "Baseline",
    "Ceiling",
    "Config",
    "ConfigFile",
    "ConfigSchema",
    "ContainerConfig",
    "CoreConfig",
    "FieldSpec",
    "HistoryConfig",
    "HooksConfig",
    "Section",
    "Trust",
    "Widening",
    "above",
    "check_endpoint",
    "check_env_name",
    "check_env_value",
    "check_image",
    "check_name",
    "check_port",
    "distrust",
    "duration_s",
    "json_schema",
    "load_config",
    "markdown_reference",
    "nearest",
    "only",
    "option",
    "option_overrides",
    "overrides",
    "parse_env_flag",
    "parse_mount_flag",
    "parse_port_flag",
    "show",
    "size_bytes",
    "user_config_path",
]
