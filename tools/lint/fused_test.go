package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The compiler may make one instruction of x*y + z, which rounds once where amd64 rounds
// twice; a tie decided by the last bit then falls otherwise. Evaluations give the same
// figures on every machine: a product that is added to is written float64(x*y), which the
// language defines as rounded. Plots place lines; they decide nothing.
func TestEvaluationsHaveNoFusedMultiplyAdd(t *testing.T) {
	const root = "../.."
	fused := regexp.MustCompile(`(/(?:eval|internal/box|internal/stat|host/workflow/detect)/[a-z0-9_/]+\.go:\d+)\)\s+(FN?M(?:ADD|SUB)[DS])\b`)
	cmd := exec.Command("go", "build", "-gcflags=-S", "./eval/...", "./internal/box", "./internal/stat", "./host/workflow/detect")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %.2000s", err, out)
	}
	text := string(out)
	if !strings.Contains(text, "FMULD") {
		t.Fatal("the compiler lists no products: what this test looks for has another name now")
	}
	for _, m := range fused.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "/eval/froc/frocplot/") {
			continue
		}
		t.Errorf("%s: %s: write the product as float64(x*y)", strings.TrimPrefix(m[1], "/"), m[2])
	}
}
