// Replicas shows how several processes share the commands to one type of service. Each "worker" is a service of that type with an id of its own;
// a command to "worker" goes to one of them, by a shared subscription, and one to "worker-1" to that one.
//
//	go run ./cmd/lawnberry serve                       # in a terminal of its own
//	go run ./examples/replicas -id worker-1 -dir w1    # in another, and worker-2 with w2 in a third
//	go run ./examples/replicas -call 100               # sends a hundred commands, and says what became of each
//
// Kill one of them (kill -9) while it works. What the others are given goes on. Of a command that was with the one that died nobody can know
// how far it came, so it is not given to another, which might do the work twice: its caller is told that the outcome is unknown, and decides. A
// worker that comes back with its directory (-dir) knows what it had begun, and does not begin it again.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

const kind = "worker" // the type of all replicas

// The command is called sharpen.
type (
	sharpen   struct{ Blade int }
	sharpened struct {
		Blade int    `json:"blade"`
		By    string `json:"by"`
	}
)

func main() {
	url := flag.String("broker", cmp.Or(os.Getenv("LAWNBERRY_BROKER_URL"), "tcp://localhost:1883"), "`URL` of the broker")
	id := flag.String("id", "worker-1", "of this replica")
	dir := flag.String("dir", "", "directory of this replica alone, for what it has to remember over a crash; empty is none")
	work := flag.Duration("work", 50*time.Millisecond, "how long a command takes")
	calls := flag.Int("call", 0, "send so many commands instead, four at a time")
	flag.Parse()
	if flag.NArg() > 0 || *calls < 0 || *id == kind {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := service.SignalContext(context.Background())
	defer stop()
	var err error
	if *calls > 0 {
		err = call(ctx, *url, *calls)
	} else {
		err = serve(ctx, service.Options{ID: *id, Type: kind, Version: "1.0.0", Client: client.Options{URL: *url, Dir: *dir}}, *work)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, o service.Options, work time.Duration) error {
	// Registered in Setup, so that no command comes before its handler is there.
	o.Setup = func(_ context.Context, svc *service.Service) error {
		service.Handle(svc, "sharpen", func(ctx context.Context, p sharpen) (sharpened, error) {
			fmt.Println("begins", p.Blade)
			select {
			case <-time.After(work):
			case <-ctx.Done():
				return sharpened{}, ctx.Err()
			}
			return sharpened{p.Blade, svc.ID()}, nil
		})
		return nil
	}
	svc, err := service.Start(ctx, o)
	if err != nil {
		return err
	}
	defer svc.Stop(ctx) // for errors
	fmt.Println(svc.ID(), "is", svc.State())
	return svc.Run(ctx)
}

// call sends commands to whoever of the type is there.
func call(ctx context.Context, url string, calls int) error {
	c, err := client.Connect(ctx, client.Options{URL: url})
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	var next, done, unknown atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for n := int(next.Add(1)); n <= calls && ctx.Err() == nil; n = int(next.Add(1)) {
				var result sharpened
				limited, cancel := context.WithTimeout(ctx, 10*time.Second)
				err := c.Call(limited, kind, "sharpen", sharpen{n}, &result)
				cancel()
				var refused *client.CommandError
				switch {
				case err == nil:
					done.Add(1)
					fmt.Printf("done %d by %s\n", n, result.By)
				case errors.As(err, &refused):
					unknown.Add(1)
					fmt.Printf("unknown %d: %s: %s\n", n, refused.Code, refused.Message)
				default:
					unknown.Add(1)
					fmt.Printf("unknown %d: %v\n", n, err)
				}
			}
		})
	}
	all.Wait()
	fmt.Printf("%d done, %d unknown\n", done.Load(), unknown.Load())
	return nil
}
