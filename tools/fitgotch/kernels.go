package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// kernels builds a plugin's folder of C++ sources that use libtorch into one library
// beside libtch.so. It is named after the folder that holds dir: plugins/NAME/native
// gives libalignedfusion_NAME.so. Nothing is done while sources, libtorch and compiler
// are what they were.
func (b *shimBuild) kernels(ctx context.Context, dir string, force bool) error {
	started := time.Now()
	full, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	name := "alignedfusion_" + filepath.Base(filepath.Dir(full))
	files, err := readSources(full)
	if err != nil {
		return fmt.Errorf("kernels: %w", err)
	}
	base, err := b.base()
	if err != nil {
		return err
	}
	own := *b
	own.work = filepath.Join(filepath.Dir(b.work), "kernels", name)
	if force {
		if err := os.RemoveAll(own.work); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(own.work, 0o755); err != nil {
		return err
	}
	base = hashFiles(map[string][]byte{"base": []byte(base), "standard": []byte(b.standard)})
	stamp := hashFiles(map[string][]byte{"base": []byte(base), "sources": []byte(hashFiles(files))})
	stampPath := filepath.Join(own.work, "stamp")
	library := filepath.Join(b.out, "lib"+name+".so")
	if old, err := os.ReadFile(stampPath); err == nil && string(old) == stamp && isFile(library) {
		fmt.Fprintf(b.log, "%s is up to date\n", filepath.Base(library))
		return nil
	}
	objects, err := own.compileOwn(ctx, files, base)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return fmt.Errorf("kernels: %s holds no .cpp file", dir)
	}
	if err := own.link(ctx, library, objects); err != nil {
		return err
	}
	fmt.Fprintf(b.log, "%s built in %.0f s\n", filepath.Base(library), time.Since(started).Seconds())
	return writeIfChanged(stampPath, []byte(stamp))
}
