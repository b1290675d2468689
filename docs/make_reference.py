"""Write docs/configuration.md and docs/run-table.md from the JSON schemas: ``python docs/make_reference.py``."""

import json
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parent
SCHEMAS = DOCS.parent / "config" / "schemas"
NOTE = "<!-- Made by docs/make_reference.py from {}; edit the schema, not this page. -->\n"


def configuration_page():
    """Text of docs/configuration.md."""
    schema = _read("config.schema.yaml")
    parts = [
        NOTE.format("config/schemas/config.schema.yaml"),
        "# Configuration\n",
        f"{schema['description']} Every key has a default; a key that is not listed here is refused.\n",
        "Change a value in `config/config.yaml`, or keep your own file and say `--configfile my.yaml`: its keys win",
        "over those of `config/config.yaml`. A changed value runs again only the steps that use it.\n",
        "## Top level\n",
        _table(schema["properties"], lambda inner: not _is_section(inner)),
    ]
    for name, inner in schema["properties"].items():
        if _is_section(inner):
            body = _section(inner)
            parts += [f"## `{name}`\n", f"{inner['description']}\n", _table(_flat(body["properties"]))]
    return "\n".join(parts)


def run_table_page():
    """Text of docs/run-table.md."""
    schema = _read("runs.schema.yaml")
    return "\n".join(
        [
            NOTE.format("config/schemas/runs.schema.yaml"),
            "# Run table\n",
            "A CSV file, `config/runs.csv` unless `runs` in the configuration names another one. One row per run; the",
            "first line names the columns, in any order; columns that are not needed can be left out.\n",
            "```\nrun,sample,stream,calibration\n50,Cubic DNA origami,proc,\n51,Cubic DNA origami,raw,may24\n```\n",
            _table(schema["properties"]),
        ]
    )


def _read(name):
    return yaml.safe_load((SCHEMAS / name).read_text(encoding="utf-8"))


def _section(inner):
    options = [inner, *inner.get("anyOf", [])]
    named = inner.get("additionalProperties")
    if isinstance(named, dict) and "properties" in named:
        return {"properties": {f"<name>.{key}": value for key, value in named["properties"].items()}}
    return next((option for option in options if "properties" in option), None)


def _flat(properties):
    """Keys of nested sections with dots in their names, as the configuration has them."""
    flat = {}
    for name, inner in properties.items():
        body = _section(inner)
        if body is None or "anyOf" in inner:
            flat[name] = inner
        if body is not None:
            for key, value in _flat(body["properties"]).items():
                flat[f"{name}.{key}"] = value
    return flat


def _is_section(inner):
    return _section(inner) is not None


def _table(properties, wanted=lambda inner: True):
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, inner in properties.items():
        if wanted(inner):
            text = inner["description"].replace("|", "\\|").replace("\n", " ")
            rows.append(f"| `{name}` | {_default(inner)} | {_allowed(inner)} | {text} |")
    return "\n".join(rows) + "\n"


def _default(inner):
    if "default" not in inner:
        return "required"
    text = json.dumps(inner["default"])
    if inner["default"] == list(range(16)):
        text = "0 to 15"
    return f"`{text}`" if inner["default"] != "" else "empty"


def _allowed(inner):
    if "anyOf" in inner:
        return " or ".join("section" if "properties" in option else option["type"] for option in inner["anyOf"])
    if "enum" in inner:
        return ", ".join(f"`{value}`" for value in inner["enum"])
    kinds = inner.get("type", "string")
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")):
        if key in inner:
            text += f" {sign} {inner[key]}"
    if "pattern" in inner:
        text += f" `{inner['pattern']}`"
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(configuration_page(), encoding="utf-8")
    (DOCS / "run-table.md").write_text(run_table_page(), encoding="utf-8")
