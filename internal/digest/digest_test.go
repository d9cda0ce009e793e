package digest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/digest"
)

// The digest of "abc" is the one that FIPS 180-2 gives.
func TestDigestIsSHA256(t *testing.T) {
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	path := filepath.Join(t.TempDir(), "abc")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := digest.File(path)
	if text := digest.Of("abc"); text != abc || file != abc || err != nil {
		t.Errorf("%s, of a file %s, %v; want %s", text, file, err, abc)
	}
	if _, err := digest.File(path + ".not"); err == nil {
		t.Error("a file that is not there has a digest")
	}
}
