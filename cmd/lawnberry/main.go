// Command lawnberry is the message bus of an autonomous mower; see lawnberry --help.
package main

import (
	"context"
	"os"

	"github.com/lawnberry/lawnberry/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
