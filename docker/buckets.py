"""Make buckets of an S3 store, where they are missing.  python buckets.py NAME ..."""

import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

store = boto3.client("s3")
for attempt in range(30):  # a store that has just begun to listen refuses for some seconds
    try:
        there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
        for name in sys.argv[1:]:
            if name not in there:
                store.create_bucket(Bucket=name)
                print(f"made s3://{name}")
        break
    except (BotoCoreError, ClientError) as error:
        if attempt == 29:
            sys.exit(f"the store at {store.meta.endpoint_url} does not take buckets: {error}")
        time.sleep(2)
