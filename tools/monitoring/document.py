"""Generated files: how a model becomes text."""

from __future__ import annotations

import json
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

NOTE = "# Generated from alerts/rules.yaml by `make generate`.\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML names it
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def plain(model: object) -> Any:
    """Lists, mappings and values of a model of the SDK."""
    return json.loads(JSONEncoder().encode(model))


def as_yaml(content: object) -> str:
    """YAML, in the order given, with a line that says where it comes from."""
    return NOTE + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=160, allow_unicode=True)


def as_json(model: object) -> str:
    """JSON with sorted keys: the SDK's order is its own affair."""
    return json.dumps(plain(model), indent=2, sort_keys=True) + "\n"
