"""A real S3 endpoint on this machine: moto's server, which keeps what it is given."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping
from urllib.error import URLError
from urllib.request import Request, urlopen

from services.mlflow_server import free_port

#: The bucket of the production server in the documents.
BUCKET = "my-mlflow-bucket"


@dataclass(frozen=True)
class S3:
    """An endpoint with one bucket."""

    url: str
    bucket: str = BUCKET

    @property
    def environment(self) -> Mapping[str, str]:
        """What whoever reads and writes there needs."""
        return s3_environment(self.url)

    def read(self, key: str) -> bytes:
        """Return an object of the bucket, fetched as its owner."""
        with self._client() as client:
            found: bytes = client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            return found

    def keys(self) -> list[str]:
        """Return what is in the bucket, the first thousand."""
        with self._client() as client:
            found = client.list_objects_v2(Bucket=self.bucket)
            return [item["Key"] for item in found.get("Contents", [])]

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        import boto3

        names = self.environment
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=names["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=names["AWS_SECRET_ACCESS_KEY"],
            region_name=names["AWS_DEFAULT_REGION"],
        )
        try:
            yield client
        finally:
            client.close()


def s3_environment(url: str) -> dict[str, str]:
    """Return the variables for an endpoint."""
    return {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_S3_ENDPOINT_URL": url,
    }


@contextlib.contextmanager
def s3(folder: Path, wait_s: float = 30.0) -> Iterator[S3]:
    """Run an endpoint; ``folder`` takes its log."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = folder / "s3.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + wait_s
        while not _made(f"{url}/{BUCKET}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no S3 endpoint:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        yield S3(url)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _made(bucket: str) -> bool:
    try:
        with urlopen(Request(bucket, method="PUT"), timeout=5):
            return True
    except (URLError, OSError):
        return False
