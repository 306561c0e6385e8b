"""The configuration: its frozen schema, and how YAML files, overrides and values become one."""
