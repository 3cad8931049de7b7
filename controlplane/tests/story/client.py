"""A client that knows nothing but the .proto files: what a Python SDK does with `base_image_creds`.

Arguments: directory of the .proto files, address of the control plane, file with a workspace token, what to do, and its arguments.
Prints one JSON document. Stubs are generated into a temporary directory with grpcio-tools.
"""

import glob
import json
import os
import sys
import tempfile

import grpc
from grpc_tools import protoc


def stubs(proto):
    out = tempfile.mkdtemp(prefix="stubs.")
    files = sorted(glob.glob(os.path.join(proto, "clipfs/v1/*.proto")))
    bundled = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    code = protoc.main(["", f"-I{proto}", f"-I{bundled}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    if code != 0:
        sys.exit(f"protoc says {code}")
    sys.path.insert(0, out)


def base_image_creds(given):
    """A list names environment variables; a dict's values are used as they are."""
    if isinstance(given, dict):
        return given
    missing = [name for name in given if not os.environ.get(name)]
    if missing:
        sys.exit(f"not set: {', '.join(missing)}")
    return {name: os.environ[name] for name in given}


def create_image(images, image, given, image_id):
    from clipfs.v1 import image_pb2

    request = image_pb2.CreateImageRequest(
        base_image=image, base_image_creds=base_image_creds(given), image_id=image_id
    )
    events = list(images.CreateImage(request, timeout=60, metadata=METADATA))
    made = events[-1].image
    return {
        "image_id": made.image_id,
        "credential_secret_name": made.credential_secret_name,
        "credential_secret_id": made.credential_secret_id,
        "digest": made.digest,
        "events": len(events),
    }


def run(containers, image_id, entry_point):
    from clipfs.v1 import container_pb2, container_request_pb2

    request = container_request_pb2.ContainerRequest(image_id=image_id, entry_point=entry_point)
    container = containers.RunContainer(
        container_pb2.RunContainerRequest(request=request), timeout=30, metadata=METADATA
    )
    output, states, last = b"", [], container
    watch = container_pb2.WatchContainerRequest(container_id=container.container_id, logs=True)
    for event in containers.WatchContainer(watch, timeout=120, metadata=METADATA):
        if event.WhichOneof("event") == "log":
            output += event.log.data
        else:
            last = event.container
            states.append(container_pb2.ContainerState.Name(last.state))
    return {
        "container_id": last.container_id,
        "states": states,
        "exit_code": last.exit_code,
        "reason": last.reason,
        "output": output.decode(),
    }


def main():
    proto, address, token_file, command, *arguments = sys.argv[1:]
    stubs(proto)
    from clipfs.v1 import container_pb2_grpc, image_pb2_grpc

    channel = grpc.insecure_channel(address)
    try:
        if command == "create-image":
            image, given, image_id = arguments
            answer = create_image(image_pb2_grpc.ImageServiceStub(channel), image, json.loads(given), image_id)
        elif command == "run":
            image_id, *entry_point = arguments
            answer = run(container_pb2_grpc.ContainerServiceStub(channel), image_id, entry_point)
        else:
            sys.exit(f"no such command: {command}")
    except grpc.RpcError as error:
        answer = {"code": error.code().name, "details": error.details()}
    print(json.dumps(answer))


if __name__ == "__main__":
    with open(sys.argv[3]) as token:
        METADATA = [("authorization", f"Bearer {token.read().strip()}")]
    main()
