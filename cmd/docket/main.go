// Command docket keeps the record of every decision that Open Policy Agent makes.
package main

import (
	"os"

	"github.com/docket-project/docket/internal/adapters/opa"
	"github.com/docket-project/docket/internal/adapters/rego"
	"github.com/docket-project/docket/internal/command"
)

func main() { os.Exit(command.Exec(command.OPA{Decide: rego.Process, Access: opa.Load})) }
