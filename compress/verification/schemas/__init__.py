"""JSON schemas of what people write (gate.toml) and what programs read (report.json)."""
