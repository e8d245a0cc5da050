package command

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/config"
)

// settings are embedded by every command that works with the configuration.
type settings struct {
	app.Config `embed:""`
}

// setting is one setting: a flag, its variable, and its default.
type setting struct {
	flag *kong.Flag
	// fallback is the default, as a flag would spell it; "" for none.
	fallback string
}

// knownSettings are those of app.Config, by their flags.
var knownSettings = func() map[string]setting {
	grammar := &settings{Config: app.DefaultConfig()}
	p, err := kong.New(grammar, append(mappers(), kong.Name("docket"))...)
	if err != nil {
		panic(err) // the grammar is the program's own
	}
	out := map[string]setting{}
	for _, flag := range p.Model.Flags {
		if len(flag.Envs) > 0 {
			out[flag.Name] = setting{flag, spellFlag(flag)}
		}
	}
	return out
}()

// spellFlag is a flag's value as it takes it.
func spellFlag(flag *kong.Flag) string {
	if flag.Tag.Type == "size" {
		return config.Size(flag.Target.Int()).String()
	}
	return spell(flag.Target)
}

// spell is a value as a flag takes it.
func spell(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		return shorten(value.String())
	case config.Secret:
		return string(value)
	case []string:
		return strings.Join(value, ",")
	case string:
		return value
	default:
		b, err := json.Marshal(value)
		if err != nil {
			panic(err) // texts, numbers and truths
		}
		return strings.Trim(string(b), `"`)
	}
}

// shorten drops the zeros of a duration: 1m0s is 1m.
func shorten(s string) string {
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// keyOf is a flag's name in the file.
func keyOf(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// isSetting tells a setting from the flags of other commands.
func isSetting(flag *kong.Flag) bool {
	s, ok := knownSettings[flag.Name]
	return ok && len(flag.Envs) > 0 && flag.Envs[0] == s.flag.Envs[0]
}

// fileResolver gives kong the value of a flag that neither the command line nor the environment set.
type fileResolver struct{ *config.File }

// Validate refuses keys that no setting has; kong calls it before resolving.
func (f fileResolver) Validate(*kong.Application) error {
	known := map[string]bool{}
	for name := range knownSettings {
		known[keyOf(name)] = true
	}
	return f.Unknown(func(key string) bool { return known[key] })
}

// Resolve looks into the file.
func (f fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f.Value(keyOf(flag.Name))
	noPath := v == "" && flag.Tag.Type == "path" // kong would make it this directory
	if ok && !noPath && isSetting(flag) && !inEnvironment(flag) {
		return v, nil
	}
	return nil, nil
}

// withDefaults gives every setting of the grammar its default, for --help as well.
func withDefaults(p *kong.Kong) error {
	return kong.Visit(p.Model, func(n kong.Visitable, next kong.Next) error {
		if flag, ok := n.(*kong.Flag); ok && isSetting(flag) && knownSettings[flag.Name].fallback != "" {
			flag.Default, flag.HasDefault = knownSettings[flag.Name].fallback, true
		}
		return next(nil)
	})
}

func inEnvironment(flag *kong.Flag) bool {
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return true
		}
	}
	return false
}

// fill gives a value to the selected command, wherever it has a place for one of that type.
func fill[T any](kctx *kong.Context, value T) {
	visit(kctx, func(place reflect.Value) bool {
		if place.Type() != reflect.TypeFor[T]() {
			return false
		}
		place.Set(reflect.ValueOf(value))
		return true
	})
}

// find returns what the selected command has of a type.
func find[T any](kctx *kong.Context) (value T, has bool) {
	visit(kctx, func(place reflect.Value) bool {
		if place.Type() != reflect.TypeFor[T]() {
			return false
		}
		value, has = place.Interface().(T)
		return true
	})
	return value, has
}

// visit goes through the fields of the selected command, and of what it embeds, unless done says not to go deeper.
func visit(kctx *kong.Context, done func(reflect.Value) bool) {
	for _, path := range kctx.Path {
		if path.Command != nil {
			visitFields(path.Command.Target, done)
		}
	}
}

func visitFields(v reflect.Value, done func(reflect.Value) bool) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Tag.Get("kong") == "-" || f.Anonymous {
			if !done(v.Field(i)) && f.Anonymous {
				visitFields(v.Field(i), done)
			}
		}
	}
}
