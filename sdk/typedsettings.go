package sdk

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Path is the text of a setting that names a file or folder.
type Path string

// SettingsOf returns the settings that the fields of a struct declare with their tags, in
// their order; the fields of an embedded struct stand where it does:
//
//	type settings struct {
//		Width  int      `setting:"width" default:"256" min:"1" help:"size of a token"`
//		Norm   string   `setting:"norm" default:"layer" choices:"layer,batch" help:"before the last layer"`
//		Window []float64 `setting:"window" default:"-1024,2050" rising:"true" help:"HU that become 0 and 255"`
//	}
//
// Fields are int, int64, float64, bool, string (or a type of one), Path, []int or
// []float64. The tags min, max, above and below bound numbers and the numbers of lists. A
// tag KEY.VARIANT stands before KEY when that variant is asked for. A field whose type has
// the method Choices() []string takes its choices from there. SettingsOf panics on a tag
// that cannot be read.
func SettingsOf(v any, variant ...string) []Setting {
	key := settingsKey{reflect.TypeOf(v), strings.Join(variant, ".")}
	known, ok := settingsKnown.Load(key)
	if !ok {
		var out []Setting
		eachSetting(reflect.ValueOf(v), func(f reflect.StructField, _ reflect.Value) {
			out = append(out, settingOf(f, variant))
		})
		known, _ = settingsKnown.LoadOrStore(key, out)
	}
	return slices.Clone(known.([]Setting))
}

// settingsKnown are what SettingsOf has read from the tags of a type, which takes longer than
// all else that is done with a configuration.
var settingsKnown sync.Map // settingsKey to []Setting

type settingsKey struct {
	of      reflect.Type
	variant string
}

// DecodeSettings makes the struct whose fields declare settings (see SettingsOf) of given
// values: what is not given has its default, and what is wrong is said as ResolveSettings
// says it.
func DecodeSettings[T any](given map[string]string, variant ...string) (T, error) {
	var out T
	resolved, err := ResolveSettings(SettingsOf(out, variant...), given)
	if err != nil {
		return out, err
	}
	eachSetting(reflect.ValueOf(&out).Elem(), func(f reflect.StructField, v reflect.Value) {
		assign(v, resolved[f.Tag.Get("setting")])
	})
	return out, nil
}

// EncodeSettings is the text of a struct's settings; DecodeSettings of it gives an equal
// struct.
func EncodeSettings(v any) Settings {
	out := Settings{}
	eachSetting(reflect.ValueOf(v), func(f reflect.StructField, v reflect.Value) {
		out[f.Tag.Get("setting")] = textOf(v)
	})
	return out
}

func eachSetting(v reflect.Value, visit func(reflect.StructField, reflect.Value)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch {
		case f.Anonymous && f.Type.Kind() == reflect.Struct:
			eachSetting(v.Field(i), visit)
		case f.Tag.Get("setting") != "":
			visit(f, v.Field(i))
		}
	}
}

func settingOf(f reflect.StructField, variants []string) Setting {
	tag := func(key string) string {
		for _, variant := range variants {
			if text, ok := f.Tag.Lookup(key + "." + variant); ok {
				return text
			}
		}
		return f.Tag.Get(key)
	}
	bound := func(key string) *float64 {
		text := tag(key)
		if text == "" {
			return nil
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			panic(fmt.Sprintf("sdk: tag %s of field %s: %v", key, f.Name, err))
		}
		return &v
	}
	s := Setting{
		Name: tag("setting"), Type: typeOf(f), Default: tag("default"), Choices: fields(tag("choices")), Help: tag("help"),
		Min: bound("min"), Max: bound("max"), Above: bound("above"), Below: bound("below"), Rising: tag("rising") == "true",
	}
	if c, ok := reflect.Zero(f.Type).Interface().(interface{ Choices() []string }); ok {
		s.Choices = c.Choices()
	}
	return s
}

func typeOf(f reflect.StructField) string {
	if f.Type == reflect.TypeFor[Path]() {
		return "path"
	}
	switch f.Type.Kind() {
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Float64:
		return "float"
	case reflect.Bool:
		return "bool"
	case reflect.String:
		return "string"
	}
	switch f.Type {
	case reflect.TypeFor[[]int]():
		return "ints"
	case reflect.TypeFor[[]float64]():
		return "floats"
	}
	panic(fmt.Sprintf("sdk: field %s is a %s, which cannot be a setting", f.Name, f.Type))
}

// assign puts a checked value into a field; an empty number is zero.
func assign(v reflect.Value, text string) {
	number := func(text string) float64 { n, _ := strconv.ParseFloat(text, 64); return n }
	whole := func(text string) int { n, _ := strconv.Atoi(text); return n }
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(whole(text)))
	case reflect.Float64:
		v.SetFloat(number(text))
	case reflect.Bool:
		b, _ := strconv.ParseBool(text)
		v.SetBool(b)
	case reflect.String:
		v.SetString(text)
	default:
		list := reflect.MakeSlice(v.Type(), 0, 0)
		for _, one := range fields(text) {
			if v.Type().Elem().Kind() == reflect.Int {
				list = reflect.Append(list, reflect.ValueOf(whole(one)))
			} else {
				list = reflect.Append(list, reflect.ValueOf(number(one)))
			}
		}
		v.Set(list)
	}
}

func textOf(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case reflect.Slice:
		var texts []string
		for i := range v.Len() {
			texts = append(texts, textOf(v.Index(i)))
		}
		return strings.Join(texts, ",")
	}
	return fmt.Sprint(v.Interface())
}
