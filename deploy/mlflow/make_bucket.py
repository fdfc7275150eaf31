"""Make a bucket in the S3 store that MLFLOW_S3_ENDPOINT_URL names, unless it is there."""

import os
import sys

import boto3
from botocore.exceptions import ClientError

store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
try:
    store.head_bucket(Bucket=sys.argv[1])
except ClientError as error:
    if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
        raise
    store.create_bucket(Bucket=sys.argv[1])
