package llm

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// objectOf returns the JSON object with the key in an answer. Thoughts (<think>…</think>),
// code fences and prose around it are left out. No such object, or two that differ, is
// errUnreadable.
func objectOf(answer, key string) (json.RawMessage, error) {
	var found json.RawMessage
	text := withoutThoughts(answer)
	for at := strings.IndexByte(text, '{'); at >= 0; {
		var object json.RawMessage
		var keys map[string]json.RawMessage
		dec := json.NewDecoder(strings.NewReader(text[at:]))
		step := 1
		if dec.Decode(&object) == nil {
			step = int(dec.InputOffset())
		}
		if json.Unmarshal(object, &keys) == nil && keys[key] != nil {
			if found != nil && !bytes.Equal(found, object) {
				return nil, errUnreadable
			}
			found = object
		} else {
			step = 1 // it may lie inside
		}
		next := strings.IndexByte(text[at+step:], '{')
		if next < 0 {
			break
		}
		at += step + next
	}
	if found == nil {
		return nil, errUnreadable
	}
	return found, nil
}

// thoughtTags are the marks around what a reasoning model says to itself.
var thoughtTags = [][2]string{{"<think>", "</think>"}, {"<thinking>", "</thinking>"}, {"<reasoning>", "</reasoning>"}, {"[THINK]", "[/THINK]"}, {"<|channel|>analysis", "<|channel|>final"}}

// withoutThoughts drops thoughts; some templates swallow the mark that opens them.
func withoutThoughts(answer string) string {
	for _, tag := range thoughtTags {
		if end := strings.LastIndex(answer, tag[1]); end >= 0 {
			return answer[end+len(tag[1]):]
		}
	}
	return answer
}

// answerCell is an entry of an answer. Models write numbers, booleans and null where a
// string was asked for.
type answerCell struct {
	Attribute scalar `json:"attribute"`
	State     scalar `json:"state"`
	Value     scalar `json:"value"`
	Quote     scalar `json:"quote"`
}

// scalar is a JSON string, number, boolean ("yes", "no") or null ("").
type scalar string

func (s *scalar) UnmarshalJSON(data []byte) error {
	var text string
	switch word := string(data); {
	case word == "null":
	case word == "true":
		text = "yes"
	case word == "false":
		text = "no"
	case data[0] == '{' || data[0] == '[':
		return errUnreadable
	case data[0] == '"':
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	default:
		text = word
	}
	*s = scalar(strings.TrimSpace(text))
	return nil
}

// states are the closed list of what an entry may say.
var states = map[string]schema.State{
	"stated": schema.Stated, "negated": schema.Negated, "uncertain": schema.Uncertain, "unmentioned": schema.Unmentioned,
}
