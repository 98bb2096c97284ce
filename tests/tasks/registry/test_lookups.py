"""What one alias, version or tag names is looked up without reading the model's other versions."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fewstep.util.errors import NotAvailable
from tests.registry_world import MODEL, with_three_versions


@pytest.fixture
def registry(tmp_path, monkeypatch):
    found = with_three_versions(tmp_path)
    found.set_alias(found.get(MODEL, 2), "champion")

    def refuse(name: str):
        raise AssertionError(f"all versions of {name} were read")

    monkeypatch.setattr(type(found), "versions", lambda self, model: refuse(model))
    monkeypatch.setattr(type(found), "aliases", lambda self, model: refuse(model))
    return found


def test_an_alias_a_version_and_a_tag_are_found_by_themselves(registry):
    champion = registry.resolve("toy@champion")
    assert (champion.number, champion.aliases) == (2, ("champion",)) and registry.holder(MODEL, "champion") == 2
    assert registry.resolve("toy").number == 2 and registry.resolve("toy/3").aliases == ()
    assert registry.champion_made(MODEL) > 0
    assert [version.number for version in registry.with_tag(MODEL, weights="3" * 64)] == [3]
    assert [version.aliases for version in registry.with_tag(MODEL, weights="2" * 64)] == [("champion",)]
    assert registry.with_tag(MODEL, weights="3" * 64, results="other") == []
    assert len(list(registry.registration_runs(MODEL))) == 3 and not list(registry.registration_runs("fewstep-none"))


def test_what_is_not_there_is_none_and_resolving_it_is_an_error_in_words(tmp_path):
    registry = with_three_versions(tmp_path)
    assert registry.holder(MODEL, "champion") is None and registry.holder("fewstep-none", "champion") is None
    assert registry.holder(MODEL, "latest") is None     # what MLflow calls the newest version is no alias
    for reference, said in (
        ("toy@champion", r"no alias 'champion' \(aliases: none\)"), ("toy@latest", "no alias 'latest'"),
        ("none@champion", "no model 'fewstep-none'"), ("toy/9", r"no version 9 \(versions: 1, 2, 3\)"),
    ):  # fmt: skip
        with pytest.raises(NotAvailable, match=said):
            registry.resolve(reference)


def test_an_alias_that_another_host_sets_while_it_is_looked_up_is_found(tmp_path, monkeypatch):
    registry, other = with_three_versions(tmp_path), MlflowClient.get_model_version_by_alias

    def set_after_the_look(client, model, alias):
        try:
            return other(client, model, alias)
        except MlflowException:
            registry.set_alias(registry.get(model, 2), alias)
            raise

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", set_after_the_look)
    assert registry.holder(MODEL, "champion") == 2 and registry.resolve("toy@champion").number == 2
