// Command docket keeps the record of every decision that Open Policy Agent makes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/docket-project/docket/internal/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
