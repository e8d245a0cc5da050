package command

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

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
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size such as 8MiB", text)
	}
	target.SetInt(int64(n))
	return nil
}

// spellSize is a number of bytes in the largest unit that says it exactly.
func spellSize(n int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n > 0 && n%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", n/unit.bytes, unit.name)
		}
	}
	return strconv.FormatInt(n, 10)
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
