"""The hooks of a run, in the order of its life.

====== ======================================================= =========================================
phase  module                                                  hooks
====== ======================================================= =========================================
1      `moat_core.hooks.startup`                               add_config, register_commands,
                                                               register_runtimes, register_dependencies,
                                                               register_resources
2      `moat_core.hooks.plan`                                  choose_runtime, add_to_plan, check_plan
3      `moat_core.hooks.open`                                  open_run, resolve_image, build_image,
                                                               open_network, open_services, open_sandbox,
                                                               open_endpoints
4      `moat_core.hooks.act`                                   around_exec, on_event, on_ledger_step
5      `moat_core.hooks.finish`                                on_body_end, on_closed
6      `moat_core.hooks.upkeep`                                find_leftovers, find_faults, add_to_status
====== ======================================================= =========================================
"""

from moat_core.hooks.markers import HookInfo, HookKind, hook_info, hookimpl, spec

__all__ = ["HookInfo", "HookKind", "hook_info", "hookimpl", "spec"]
