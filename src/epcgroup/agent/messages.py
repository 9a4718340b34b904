"""The protobuf messages of ttrpc, NRI (v1alpha1) and kubelet's device plugins (v1beta1), as far as the agent uses them.

Names, numbers and types are the protocols'; fields that are not here are skipped by whoever reads. `NRI["PodSandbox"]`
is a message class, made by protobuf from the tables below: no generated code, no compiler to install.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Table = Mapping[str, Mapping[str, tuple[int, str]]]  # message -> field -> number, type ("[]": a list of it)

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
}
_MAP = "map"  # string to string


def _classes(package: str, table: Table) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in table.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            many = kind.startswith("[]") or kind == _MAP
            label = _FIELD.LABEL_REPEATED if many else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            element = kind.removeprefix("[]")
            if element == _MAP:
                entry = message.nested_type.add(name="".join(map(str.capitalize, field.split("_"))) + "Entry")
                entry.options.map_entry = True
                for position, side in enumerate(("key", "value"), 1):
                    entry.field.add(name=side, number=position, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING)
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{name}.{entry.name}"
            elif element in _SCALARS:
                added.type = _SCALARS[element]
            else:
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{element}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}


TTRPC = _classes(
    "ttrpc",
    {
        "Request": {
            "service": (1, "string"),
            "method": (2, "string"),
            "payload": (3, "bytes"),
            "timeout_nano": (4, "int64"),
        },
        "Status": {"code": (1, "int32"), "message": (2, "string")},
        "Response": {"status": (1, "Status"), "payload": (2, "bytes")},
    },
)

NRI_PACKAGE = "nri.pkg.api.v1alpha1"
NRI = _classes(
    NRI_PACKAGE,
    {
        "Empty": {},
        "LinuxResources": {"unified": (6, _MAP)},
        "LinuxContainer": {"resources": (3, "LinuxResources"), "cgroups_path": (5, "string")},
        "LinuxPodSandbox": {"cgroup_parent": (3, "string")},
        "PodSandbox": {
            "id": (1, "string"),
            "name": (2, "string"),
            "uid": (3, "string"),
            "namespace": (4, "string"),
            "labels": (5, _MAP),
            "annotations": (6, _MAP),
            "linux": (8, "LinuxPodSandbox"),
        },
        "Container": {
            "id": (1, "string"),
            "pod_sandbox_id": (2, "string"),
            "name": (3, "string"),
            "labels": (5, _MAP),
            "annotations": (6, _MAP),
            "linux": (11, "LinuxContainer"),
        },
        "LinuxContainerAdjustment": {"resources": (2, "LinuxResources")},
        "ContainerAdjustment": {"linux": (6, "LinuxContainerAdjustment")},
        "LinuxContainerUpdate": {"resources": (1, "LinuxResources")},
        "ContainerUpdate": {
            "container_id": (1, "string"),
            "linux": (2, "LinuxContainerUpdate"),
            "ignore_failure": (3, "bool"),
        },
        "RegisterPluginRequest": {
            "plugin_name": (1, "string"),
            "plugin_idx": (2, "string"),
        },
        "ConfigureRequest": {
            "config": (1, "string"),
            "runtime_name": (2, "string"),
            "runtime_version": (3, "string"),
        },
        "ConfigureResponse": {"events": (2, "int32")},
        "SynchronizeRequest": {"pods": (1, "[]PodSandbox"), "containers": (2, "[]Container"), "more": (3, "bool")},
        "SynchronizeResponse": {"update": (1, "[]ContainerUpdate"), "more": (2, "bool")},
        "CreateContainerRequest": {"pod": (1, "PodSandbox"), "container": (2, "Container")},
        "CreateContainerResponse": {"adjust": (1, "ContainerAdjustment")},
        "UpdateContainerRequest": {
            "pod": (1, "PodSandbox"),
            "container": (2, "Container"),
            "linux_resources": (3, "LinuxResources"),
        },
        "UpdateContainerResponse": {"update": (1, "[]ContainerUpdate")},
        "StateChangeEvent": {"event": (1, "int32"), "pod": (2, "PodSandbox"), "container": (3, "Container")},
        "UpdateContainersRequest": {"update": (1, "[]ContainerUpdate")},
        "UpdateContainersResponse": {"failed": (1, "[]ContainerUpdate")},
    },
)

DEVICE_PLUGIN = _classes(
    "v1beta1",
    {
        "Empty": {},
        "DevicePluginOptions": {
            "pre_start_required": (1, "bool"),
            "get_preferred_allocation_available": (2, "bool"),
        },
        "RegisterRequest": {
            "version": (1, "string"),
            "endpoint": (2, "string"),
            "resource_name": (3, "string"),
            "options": (4, "DevicePluginOptions"),
        },
        "Device": {"ID": (1, "string"), "health": (2, "string")},
        "ListAndWatchResponse": {"devices": (1, "[]Device")},
        "ContainerAllocateRequest": {"devices_ids": (1, "[]string")},
        "AllocateRequest": {"container_requests": (1, "[]ContainerAllocateRequest")},
        "DeviceSpec": {"container_path": (1, "string"), "host_path": (2, "string"), "permissions": (3, "string")},
        "ContainerAllocateResponse": {"devices": (3, "[]DeviceSpec")},
        "AllocateResponse": {"container_responses": (1, "[]ContainerAllocateResponse")},
    },
)
