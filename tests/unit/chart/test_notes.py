"""What a person reads after `helm install`: the next three commands, which work as they are pasted, and what a run needs here."""

from __future__ import annotations

import shlex

import pytest
import yaml

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.core.destinations import destinations_of

NEEDS = "This operator acts only on runs "


def pasted(notes):
    """The run in the notes, by its here-document as a shell reads it: the end is a line of its own."""
    return yaml.safe_load(notes.partition("<<'RUN'\n")[2].partition("\nRUN\n")[0])


def test_the_run_in_the_notes_is_one_that_the_operator_takes(helm):
    notes = helm.notes()
    run = pasted(notes)
    assert TrainingRunSpec.parse_strict(run["spec"]).auto_stop_loss == 0.5
    assert "\nkubectl apply -f - <<'RUN'\n" in notes
    assert "kubectl get trainingruns --watch" in notes
    patch = f"""kubectl patch trainingrun {run["metadata"]["name"]} --type merge -p '{{"spec":{{"stop":true}}}}'"""
    assert patch in notes
    assert "helm test trainingrun-operator --namespace trainingrun-system" in notes
    assert NEEDS not in notes


def test_with_named_namespaces_the_commands_go_to_the_first_of_them(helm):
    notes = helm.notes("--set", "watchNamespaces={vision,nlp}")
    assert notes.startswith("The TrainingRun operator manages the TrainingRuns of vision, nlp.\n")
    commands = [
        line.strip() for line in notes.splitlines() if line.strip().startswith("kubectl") and "explain" not in line
    ]
    assert len(commands) == 3
    assert all(" --namespace vision " in command for command in commands)


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        pytest.param("team=vision", {"team": "vision"}, id="one label"),
        pytest.param("team==vision,acme.dev/tier = 1", {"team": "vision", "acme.dev/tier": "1"}, id="two labels"),
        pytest.param("team!=vision", None, id="a label that it must not have"),
        pytest.param("team in (vision),x=y", None, id="labels that cannot be guessed"),
        pytest.param("!shard", None, id="no label of that name"),
    ],
)
def test_with_a_selector_the_notes_say_which_labels_a_run_needs(helm, selector, labels):
    notes = helm.notes("--set", f"runSelector={selector.replace(',', chr(92) + ',')}")
    assert NEEDS in notes
    assert f"whose labels match the selector {selector}" in notes
    assert (f"kubectl get trainingruns --selector '{selector}'" in notes) == (labels is None)
    assert pasted(notes)["metadata"].get("labels") == labels


def test_without_a_list_of_destinations_it_is_said_how_a_server_is_allowed_beside_aws(helm):
    notes = helm.notes()
    assert "A server of your own (spec.checkpoint.s3.endpointURL) is refused until it is listed" in notes
    command = notes.partition("  helm upgrade")[2].partition("\n\n")[0]
    (value,) = [word for word in shlex.split(command) if word.startswith("allowedDestinations=")]
    listed = yaml.safe_load(value.partition("=")[2])
    assert listed == [{"endpoint": "https://minio.storage.svc:9000"}, {}]
    assert len(destinations_of(listed)) == 2
    assert helm.render("--set-json", value).env["TRAININGRUN_ALLOWED_DESTINATIONS"]


def test_with_a_list_of_destinations_it_is_said_that_there_is_one(helm):
    notes = helm.notes("--set-json", "allowedDestinations=[{}]")
    assert "allowedDestinations lets them (1 listed)" in notes
    assert "helm upgrade" not in notes


def test_nodes_that_stay_are_told(helm):
    assert "nodeRelease.enabled is false" in helm.notes("--set", "nodeRelease.enabled=false")
    assert "GPUNodePool selects them" in helm.notes()
