// Command parking is docket's role that replays what PostgreSQL could not take: the same as docket parking.
package main

import (
	"os"

	"github.com/docket-project/docket/internal/command"
)

func main() { os.Exit(command.Exec(command.OPA{}, "parking")) }
