"""Serialisation of generated files."""

from __future__ import annotations

import json
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

NOTE = "# Generated from alerts/rules.yaml by `make generate`.\n"


class _Dumper(yaml.SafeDumper):
    """Multi-line texts as block scalars; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML names it
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def plain(model: object) -> Any:
    """An SDK model as plain lists, mappings and values."""
    return json.loads(JSONEncoder().encode(model))


def as_yaml(content: object) -> str:
    """YAML in the given order, with a line that names the source."""
    return NOTE + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=160, allow_unicode=True)


def as_json(model: object) -> str:
    """JSON with sorted keys, independent of the SDK's order."""
    return json.dumps(plain(model), indent=2, sort_keys=True) + "\n"
