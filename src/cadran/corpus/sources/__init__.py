"""Where text comes from: one file per kind of source; `config.parse_source` turns a recipe's entry into one."""
