"""The messages of the stage protocol, made from its compiled description at import."""
import os

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "stage.binpb"), "rb") as _f:
    _set = descriptor_pb2.FileDescriptorSet.FromString(_f.read())

_pool = descriptor_pool.DescriptorPool()
for _file in _set.file:
    _pool.Add(_file)

PACKAGE = "alignedfusion.stage.v1"
SERVICE = PACKAGE + ".StageService"


def message(name):
    """The class of a message by its short name."""
    descriptor = _pool.FindMessageTypeByName(PACKAGE + "." + name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_pool).GetPrototype(descriptor)


METHODS = {m.name: (message(m.input_type.name), message(m.output_type.name))
           for m in _pool.FindServiceByName(SERVICE).methods}
Tensor, Port, Setting = message("Tensor"), message("Port"), message("Setting")
StageManifest, PluginManifest, Diagnostic = message("StageManifest"), message("PluginManifest"), message("Diagnostic")
EVAL, TRAIN = 1, 2
