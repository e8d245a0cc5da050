// Command ingest is docket's role that takes uploads and makes them durable in Kafka: the same as docket ingest.
package main

import (
	"os"

	"github.com/docket-project/docket/internal/command"
)

func main() { os.Exit(command.Exec(command.OPA{}, "ingest")) }
