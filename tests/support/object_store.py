"""An S3-compatible server on loopback: moto's, in this process, with one bucket."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "datasets"
# what the store's library reads, of this process and of those that a test starts
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@contextmanager
def loopback_store(refuses: Callable[[str, str, int], bool] | None = None) -> Iterator[dict[str, str]]:
    """The environment variables with which programs reach the server, while the body runs.

    Args:
        refuses: called with the method, the path and the client's port of each request, which is not answered where
            it gives True; it may kill the client.
    """
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    if refuses is not None:
        answer: Any = server._server.app

        def app(environ: Any, start_response: Any) -> Any:
            if refuses(environ["REQUEST_METHOD"], environ["PATH_INFO"], int(environ["REMOTE_PORT"])):
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            return answer(environ, start_response)

        server._server.app = app
    environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="loopback",
            aws_secret_access_key="loopback-secret",
        )
        client.create_bucket(Bucket=BUCKET)
        # a connection that is kept from an earlier server leads to that one
        s3fs.S3FileSystem.clear_instance_cache()
        yield environment
    finally:
        server.stop()
