package cli

import (
	"embed"
	"fmt"
)

//go:embed topics/*.txt
var topics embed.FS

// Topic is `docket help TOPIC`.
type Topic struct {
	Name string `arg:"" optional:"" default:"" name:"TOPIC" enum:"replay,trail," help:"replay or trail."`
}

// Run prints a text, or what there is to read.
func (t *Topic) Run(out Out) error {
	if t.Name == "" {
		_, err := fmt.Fprint(out.Stdout, "docket help replay   how to replay dead letters safely, step by step\n"+
			"docket help trail    where a decision can be\ndocket --help        every command; docket COMMAND --help has its "+
			"flags\n")
		return err
	}
	text, err := topics.ReadFile("topics/" + t.Name + ".txt")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out.Stdout, "%s", text)
	return err
}
