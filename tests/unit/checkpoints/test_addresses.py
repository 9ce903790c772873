"""Addresses of S3 servers, and those that no request may go to."""

from __future__ import annotations

import pytest

from trainingrun_operator.checkpoints.addresses import Address, is_metadata


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"],
)  # fmt: skip
def test_a_metadata_service_is_known_by_its_address(host):
    assert is_metadata(host)


@pytest.mark.parametrize("host", ["10.0.0.7", "127.0.0.1", "fd12::7", "::ffff:10.0.0.7", "minio.storage.svc"])
def test_other_servers_are_none(host):
    assert not is_metadata(host)


def test_an_address_is_read_into_its_parts():
    assert Address.of("http://S3.svc/a/b/") == Address("http", "s3.svc", "80", "/a/b")
