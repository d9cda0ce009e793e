package cli

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestHelpKeepsAllWordsAndItsWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.StringMatching(`[a-zé]{1,12}`)).Draw(t, "words")
		width := rapid.IntRange(60, 200).Draw(t, "width")
		rows := []row{{"--flag VALUE", strings.Join(words, " ")}, {rapid.StringMatching(`--[a-z]{1,50}`).Draw(t, "name"), "short"}}
		text := columns(rows, 2, width)
		for _, line := range strings.Split(text, "\n") {
			if n := len([]rune(line)); n > width {
				t.Fatalf("%d columns of %d: %q", n, width, line)
			}
		}
		if got := strings.Fields(strings.TrimPrefix(strings.TrimSpace(text), "--flag VALUE")); strings.Join(got[:len(words)], " ") != strings.Join(words, " ") {
			t.Fatalf("words are lost: %q of %q", got, words)
		}
	})
}

func TestALongListIsBrokenBehindItsCommasAndBars(t *testing.T) {
	got := strings.Join(wrapped("one of alpha,beta,gamma|delta|epsilon, or unbreakable-word", 12), "\n")
	if want := "one of\nalpha,beta,\ngamma|delta|\nepsilon, or\nunbreakable-word"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAParagraphIsFilledAndWhatIsSetInStands(t *testing.T) {
	const text = "One line\nand its second.\n\n  a  table\n  of two"
	if got, want := paragraphs(text, 1, 60), " One line and its second.\n\n   a  table\n   of two\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAFlagIsMeantByItsOtherNameItsBeginningOrASlip(t *testing.T) {
	flags := []string{"ground-truth", "predictions", "out", "seed", "split"}
	for given, want := range map[string]string{
		"gt": "ground-truth", "ground_truth": "ground-truth", "pred": "predictions", "predictoins": "predictions",
		"output": "out", "seeds": "seed", "spilt": "split", "zz": "", "colour": "",
	} {
		if got := flagMeant(given, flags); got != want {
			t.Errorf("--%s: %q is meant, want %q", given, got, want)
		}
	}
	for given, want := range map[string]string{"lr": "train.lr", "learning_rate": "train.lr", "batch-size": "train.batch_size", "workers": "data.workers", "nonsense": ""} {
		if got := settingMeant(given); got != want {
			t.Errorf("--%s: setting %q is meant, want %q", given, got, want)
		}
	}
}
