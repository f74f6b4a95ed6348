// Command sallyport is the one program: it runs any part of Sallyport or all of them, and is the tool for contracts,
// tokens and receipts. Everything is in package mainlib, so that tests can call it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sallyport/compose/sallyport/mainlib"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first Ctrl-C ends everything in order; a second one ends this process at once, and its children with it.
	context.AfterFunc(ctx, stop)
	code := mainlib.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
