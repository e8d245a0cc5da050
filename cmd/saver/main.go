// Command saver is docket's role that stores decisions in PostgreSQL: the same as docket saver.
package main

import (
	"os"

	"github.com/docket-project/docket/internal/command"
)

func main() { os.Exit(command.Exec(command.OPA{}, "saver")) }
