"""Where the installation has its events told, out of its settings."""

from __future__ import annotations

import pytest

from trainingrun_operator.api.notification import EventType
from trainingrun_operator.controller.main import webhook
from trainingrun_operator.settings import Settings, SettingsError

URL, SECRET = "https://ops.example/events", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_without_an_address_nobody_is_told():
    assert webhook(Settings(webhook_secret=SECRET)) is None


def test_all_events_are_told_unless_some_are_named():
    all_of_them = webhook(Settings(webhook_url=URL, webhook_secret=SECRET))
    one = webhook(Settings(webhook_url=URL, webhook_secret=SECRET, webhook_events="dev.trainingrun.data.lost"))
    assert all_of_them is not None
    assert one is not None
    assert all_of_them.url == URL
    assert sorted(all_of_them.types) == sorted(EventType)
    assert list(one.types) == [EventType.DATA_LOST]
    assert len(all_of_them.keys) == 1


def test_nothing_is_told_unsigned():
    with pytest.raises(SettingsError, match="TRAININGRUN_WEBHOOK_URL needs TRAININGRUN_WEBHOOK_SECRET"):
        webhook(Settings(webhook_url=URL))
