"""Makes the bucket and asks the S3 server the two questions a proven checkpoint rests on; exits non-zero on a wrong answer."""

from __future__ import annotations

import os
import sys
import time

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

PROBE = "_ground/probe"


def refusal(call: object, **arguments: object) -> str:
    """The error code the server refuses a call with, or `accepted`."""
    try:
        call(**arguments)  # type: ignore[operator]
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "accepted"


def main(bucket: str) -> int:
    """The exit status."""
    s3 = boto3.client(
        "s3",
        endpoint_url=os.environ["TRAININGRUN_S3_ENDPOINT"],
        verify=os.environ["TRAININGRUN_S3_CA"],
        region_name=os.environ["AWS_REGION"],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    for attempt in range(60):
        try:
            if bucket not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
                s3.create_bucket(Bucket=bucket)
            break
        except (BotoCoreError, ClientError) as error:
            print(f"attempt {attempt}: {error}")
            time.sleep(0.5)
    s3.put_object(Bucket=bucket, Key=PROBE, Body=b"x")
    answers = {
        "If-None-Match: * on an existing object": (
            refusal(s3.put_object, Bucket=bucket, Key=PROBE, Body=b"y", IfNoneMatch="*"),
            "PreconditionFailed",
        ),
        "a wrong CRC64NVME": (
            refusal(s3.put_object, Bucket=bucket, Key=PROBE, Body=b"z", ChecksumCRC64NVME="AAAAAAAAAAA="),
            "BadDigest",
        ),
    }
    s3.delete_object(Bucket=bucket, Key=PROBE)
    for question, (answer, wanted) in answers.items():
        print(f"{question}: {answer}")
        if answer != wanted:
            print(f"the S3 server answered {question} with {answer!r}, not with {wanted!r}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
