package cli

import (
	"embed"
	"fmt"
)

//go:embed topics/*.txt
var topics embed.FS

// Topic is `docket help TOPIC`.
type Topic struct {
	Name string `arg:"" name:"TOPIC" enum:"replay,trail" help:"replay or trail."`
}

// Run prints a text.
func (t *Topic) Run(out Out) error {
	text, err := topics.ReadFile("topics/" + t.Name + ".txt")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out.Stdout, "%s", text)
	return err
}
