"""The plugins that come with moat. Each uses only what third parties can use."""
