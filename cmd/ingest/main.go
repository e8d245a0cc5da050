// Command ingest is docket's role that takes uploads and makes them durable in Kafka: the same as docket ingest.
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
	args := append([]string{string(app.Ingest)}, os.Args[1:]...)
	code := app.Main(ctx, args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
