package cli

import (
	"embed"
	"fmt"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

//go:embed topics/*.txt
var topics embed.FS

// Topic is `docket help TOPIC`.
type Topic struct {
	Name string `arg:"" optional:"" name:"TOPIC" help:"replay, trail, or the cause of dead letters, such as rejected."`
}

// overview is what there is to read; its argument are the causes.
const overview = `docket help replay   how to replay dead letters safely, step by step
docket help trail    where a decision can be
docket help CAUSE    what a cause of dead letters means, and what to do:
                     %s
docket --help        every command; docket COMMAND --help has its flags
`

// Run prints a text, or what there is to read.
func (t *Topic) Run(out Out) error {
	if t.Name == "" {
		_, err := fmt.Fprintf(out.Stdout, overview, causeList())
		return err
	}
	name := strings.ToLower(t.Name)
	text, err := topics.ReadFile("topics/" + name + ".txt")
	if err != nil {
		text, err = topics.ReadFile("topics/cause-" + name + ".txt")
	}
	if err != nil {
		return fail(ExitUsage, "there is nothing to read about %s: docket help lists what there is", t.Name)
	}
	_, err = fmt.Fprintf(out.Stdout, "%s", text)
	return err
}

// causeList names the causes of dead letters, a few on each line.
func causeList() string {
	const each = 5
	var b strings.Builder
	for i, c := range domain.Causes {
		switch {
		case i == 0:
		case i%each == 0:
			b.WriteString(",\n" + strings.Repeat(" ", len("docket help CAUSE    ")))
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(c))
	}
	return b.String()
}
