package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What compiles here and not elsewhere is found, in tests too; what stands on libtorch is
// not for other systems.
func TestPackagesCompileOnOtherSystems(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module example.org/x\n\ngo 1.26\n\nrequire github.com/sugarme/gotch v0.0.0\n\nreplace github.com/sugarme/gotch => ./gotch\n",
		"gotch/go.mod":     "module github.com/sugarme/gotch\n\ngo 1.26\n",
		"gotch/g.go":       "package gotch\n\nvar G int = Elsewhere\n",
		"a/a.go":           "package a\n\nimport \"syscall\"\n\nvar A = syscall.Kill(1, 0)\n",
		"b/b.go":           "package b\n",
		"b/b_test.go":      "package b\n\nimport (\n\t\"syscall\"\n\t\"testing\"\n)\n\nfunc TestB(*testing.T) { _ = syscall.Kill(1, 0) }\n",
		"torch/t.go":       "package torch\n\nimport \"github.com/sugarme/gotch\"\n\nvar T = gotch.G + syscall.Kill\n",
		"fine/f_linux.go":  "package fine\n\nimport \"syscall\"\n\nvar F = syscall.Kill(1, 0)\n",
		"fine/f_others.go": "//go:build !linux\n\npackage fine\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	for _, test := range []struct {
		system string
		want   []finding
	}{
		{"linux/arm64", nil},
		{"windows/amd64", []finding{
			{"a/a.go", 5, "system", "on windows/amd64: undefined: syscall.Kill"},
			{"b/b_test.go", 8, "system", "on windows/amd64: undefined: syscall.Kill"},
		}},
	} {
		got, err := lintSystem(root, test.system, "./...")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(finding{})); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.system, diff)
		}
	}
}
