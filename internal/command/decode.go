package command

import (
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/docket-project/docket/internal/config"
)

// mappers are how settings of some kinds are read.
func mappers() []kong.Option {
	return []kong.Option{
		kong.NamedMapper("path", kong.MapperFunc(decodePath)),
		kong.NamedMapper("names", kong.MapperFunc(decodeNames)),
		kong.NamedMapper("size", kong.MapperFunc(decodeSize)),
		kong.TypeMapper(reflect.TypeFor[config.Secret](), kong.MapperFunc(decodeSecret)),
	}
}

// decodePath reads the name of a file or directory. An empty one is none: kong's own would make it this directory.
func decodePath(c *kong.DecodeContext, target reflect.Value) error {
	name, err := trimmed(c, "path")
	if err == nil && name != "" && name != "-" {
		name = kong.ExpandPath(name)
	}
	target.SetString(name)
	return err
}

// decodeNames reads texts parted by commas. White space around them does not count, nor does a comma at the end.
func decodeNames(c *kong.DecodeContext, target reflect.Value) error {
	text, err := trimmed(c, "list")
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			target.Set(reflect.Append(target, reflect.ValueOf(item)))
		}
	}
	return err
}

// decodeSize reads a number of bytes, such as 8MiB or 8388608.
func decodeSize(c *kong.DecodeContext, target reflect.Value) error {
	text, err := trimmed(c, "size")
	if err != nil {
		return err
	}
	var size config.Size
	if err := size.UnmarshalText([]byte(text)); err != nil {
		return err
	}
	target.SetInt(int64(size))
	return nil
}

// decodeSecret reads a secret, which often comes from a file with a new line at its end.
func decodeSecret(c *kong.DecodeContext, target reflect.Value) error {
	text, err := trimmed(c, "text")
	target.Set(reflect.ValueOf(config.Secret(text)))
	return err
}

func trimmed(c *kong.DecodeContext, what string) (text string, err error) {
	err = c.Scan.PopValueInto(what, &text)
	return strings.TrimSpace(text), err
}
