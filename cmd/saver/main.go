// Command saver is docket's role that stores decisions in PostgreSQL: the same as docket saver.
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
	args := append([]string{string(app.Saver)}, os.Args[1:]...)
	code := app.Main(ctx, args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
