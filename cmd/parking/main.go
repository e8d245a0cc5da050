// Command parking is docket's role that replays what PostgreSQL could not take: the same as docket parking.
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
	args := append([]string{string(app.Parking)}, os.Args[1:]...)
	code := app.Main(ctx, args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
