package main

import (
	"os"
	"strings"
	"testing"
)

func TestArchitectureNamesEveryRoom(t *testing.T) {
	text, err := os.ReadFile("../../docs/explanation/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "## The rooms")
	if !found {
		t.Fatal("docs/explanation/architecture.md has no section on the rooms")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	words := map[string]bool{}
	for _, word := range strings.FieldsFunc(section, func(r rune) bool { return strings.ContainsRune(" \n(),;`", r) }) {
		words[strings.TrimSuffix(word, "/")] = true
	}
	for _, r := range rooms {
		if !words[r.prefix] {
			t.Errorf("docs/explanation/architecture.md does not name %s in its section on the rooms", r.prefix)
		}
	}
}
