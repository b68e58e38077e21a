"""An S3 server on loopback that holds the files of a folder in the bucket `photos`. Run by `test_s3.py`.

s3_server.py PORT FOLDER FAIL_EVERY      every so many requests are answered with 503, 0: none
"""

import itertools
import os
import sys
from pathlib import Path

import boto3
from moto import mock_aws
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main() -> None:
    port, folder, fail_every = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    os.environ.pop("AWS_ENDPOINT_URL", None)  # of those who ask
    with mock_aws():  # the server's own memory
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="photos")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket="photos", Key=str(path.relative_to(folder)), Body=path.read_bytes())
        application = DomainDispatcherApplication(create_backend_app)
        count = itertools.count(1)

        def serve(environ, start_response):
            if fail_every and next(count) % fail_every == 0:
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [
                    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                ]
            return application(environ, start_response)

        server = make_server("127.0.0.1", port, serve, threaded=True)
        print("ready", flush=True)
        server.serve_forever()


main()
