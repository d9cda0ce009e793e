// Package proto_test keeps the promise of docs/reference/protocol.md: a minor version adds, and
// changes nothing that is there.
package proto_test

import (
	"os"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
)

const first = "../plugintest/toy/testdata/stage-1.0.binpb"

func TestMinorsOnlyAdd(t *testing.T) {
	data, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	was, err := protodesc.NewFile(set.File[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	is := stagev1.File_alignedfusion_stage_v1_stage_proto
	if was.Package() != is.Package() {
		t.Fatalf("package was %s, is %s", was.Package(), is.Package())
	}
	for i := range was.Messages().Len() {
		compareMessage(t, was.Messages().Get(i), is.Messages().ByName(was.Messages().Get(i).Name()))
	}
	for i := range was.Enums().Len() {
		w := was.Enums().Get(i)
		e := is.Enums().ByName(w.Name())
		for j := range w.Values().Len() {
			v := w.Values().Get(j)
			if e == nil || e.Values().ByName(v.Name()) == nil || e.Values().ByName(v.Name()).Number() != v.Number() {
				t.Errorf("enum value %s is gone or has another number", v.FullName())
			}
		}
	}
	for i := range was.Services().Len() {
		w := was.Services().Get(i)
		s := is.Services().ByName(w.Name())
		for j := range w.Methods().Len() {
			m := w.Methods().Get(j)
			n := s.Methods().ByName(m.Name())
			if n == nil || n.Input().FullName() != m.Input().FullName() || n.Output().FullName() != m.Output().FullName() ||
				n.IsStreamingClient() != m.IsStreamingClient() || n.IsStreamingServer() != m.IsStreamingServer() {
				t.Errorf("method %s is gone or has another signature", m.FullName())
			}
		}
	}
}

func compareMessage(t *testing.T, was, is protoreflect.MessageDescriptor) {
	t.Helper()
	if is == nil {
		t.Errorf("message %s is gone", was.FullName())
		return
	}
	for i := range was.Fields().Len() {
		w := was.Fields().Get(i)
		f := is.Fields().ByNumber(w.Number())
		switch {
		case f == nil:
			t.Errorf("field %s = %d is gone", w.FullName(), w.Number())
		case f.Name() != w.Name() || f.Kind() != w.Kind() || f.Cardinality() != w.Cardinality() || f.IsMap() != w.IsMap() || oneof(f) != oneof(w):
			t.Errorf("field %s = %d was %s %s, is %s %s %s", w.FullName(), w.Number(), w.Cardinality(), w.Kind(), f.Cardinality(), f.Kind(), f.Name())
		case w.Message() != nil && f.Message().FullName() != w.Message().FullName():
			t.Errorf("field %s was a %s, is a %s", w.FullName(), w.Message().FullName(), f.Message().FullName())
		}
	}
	for i := range was.Messages().Len() {
		compareMessage(t, was.Messages().Get(i), is.Messages().ByName(was.Messages().Get(i).Name()))
	}
}

func oneof(f protoreflect.FieldDescriptor) protoreflect.Name {
	if f.ContainingOneof() == nil {
		return ""
	}
	return f.ContainingOneof().Name()
}

// The Python SDK reads a compiled description of the messages: it has to be today's.
func TestPythonDescriptionIsCurrent(t *testing.T) {
	data, err := os.ReadFile("../python/alignedfusion_sdk/stage.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	now := protodesc.ToFileDescriptorProto(stagev1.File_alignedfusion_stage_v1_stage_proto)
	for _, f := range set.File {
		f.SourceCodeInfo = nil
		if f.GetName() == now.GetName() && proto.Equal(f, now) {
			return
		}
	}
	t.Error("sdk/python/alignedfusion_sdk/stage.binpb differs from stage.proto; run `make proto`")
}
