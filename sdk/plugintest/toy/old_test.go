//go:build unix

package toy_test

import (
	"context"
	_ "embed"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

//go:embed testdata/stage-1.0.binpb
var messages []byte

const oldManifest = `manifest {
  name: "old" version: "1.0.0" protocol_major: 1
  stages {
    name: "old" kind: "head"
    inputs { name: "x" dtype: "FP32" shape: "N" shape: "4" required: true }
    outputs { name: "y" dtype: "FP32" shape: "N" shape: "4" required: true }
  }
}`

// newOld is a plugin of the first days: it knows the messages of protocol 1.0 as they were
// then (testdata/stage-1.0.binpb, never to be regenerated) and nothing that came later, and
// no SDK. Every host of major 1 has to be able to work with it.
func newOld() (*old, error) {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(messages, &set); err != nil {
		return nil, err
	}
	file, err := protodesc.NewFile(set.File[0], nil)
	if err != nil {
		return nil, err
	}
	return &old{service: file.Services().ByName("StageService")}, nil
}

type old struct {
	noClient
	service protoreflect.ServiceDescriptor
}

// GRPCServer registers a handler for every method there was.
func (o *old) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	desc := grpc.ServiceDesc{ServiceName: string(o.service.FullName()), HandlerType: (*any)(nil)}
	for i := range o.service.Methods().Len() {
		m := o.service.Methods().Get(i)
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: string(m.Name()),
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
				if err := decode(in); err != nil {
					return nil, err
				}
				return out, handle(string(m.Name()), in, out)
			}})
	}
	server.RegisterService(&desc, o)
	return nil
}

func field(m *dynamicpb.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

func handle(method string, in, out *dynamicpb.Message) error {
	switch method {
	case "Describe":
		return prototext.Unmarshal([]byte(oldManifest), out)
	case "Open":
		out.Set(field(out, "instance"), protoreflect.ValueOfUint64(1))
		return nil
	case "Forward": // y = x
		x := in.Get(field(in, "inputs")).List().Get(0).Message().Interface().(*dynamicpb.Message)
		outputs := out.Mutable(field(out, "outputs")).List()
		y := outputs.NewElement().Message()
		for _, name := range []protoreflect.Name{"dtype", "shape", "raw"} {
			y.Set(field(x, name), x.Get(field(x, name)))
		}
		y.Set(field(x, "name"), protoreflect.ValueOfString("y"))
		outputs.Append(protoreflect.ValueOfMessage(y))
		return nil
	case "Close":
		return nil
	}
	return status.Error(codes.Unimplemented, method)
}
